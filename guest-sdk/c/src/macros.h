// SPDX-License-Identifier: Apache-2.0
// What the macros of watchfire_rule.h expand to. Not for rules.
#ifndef WATCHFIRE_MACROS_H
#define WATCHFIRE_MACROS_H

// ---------------------------------------------------------------- fields of state: declared, counted, written, read

#define WF_DECLARE_(type, ...) WF_DECLARE_##type##_(__VA_ARGS__)
#define WF_DECLARE_number_(name) double name;
#define WF_DECLARE_integer_(name) int64_t name;
#define WF_DECLARE_flag_(name) bool name;
#define WF_DECLARE_numbers_(name, count) double name[count];
#define WF_DECLARE_ewma_(name) wf_ewma name;
#define WF_DECLARE_rate_of_change_(name) wf_rate_of_change name;
#define WF_DECLARE_hysteresis_(name) wf_hysteresis name;
#define WF_DECLARE_debounce_(name) wf_debounce name;
#define WF_DECLARE_tumbling_window_(name) wf_tumbling_window name;

#define WF_BYTES_(type, ...) WF_BYTES_##type##_(__VA_ARGS__)
#define WF_BYTES_number_(name) +8
#define WF_BYTES_integer_(name) +8
#define WF_BYTES_flag_(name) +1
#define WF_BYTES_numbers_(name, count) +8 * (count)
#define WF_BYTES_ewma_(name) +24
#define WF_BYTES_rate_of_change_(name) +17
#define WF_BYTES_hysteresis_(name) +1
#define WF_BYTES_debounce_(name) +9
#define WF_BYTES_tumbling_window_(name) +40

#define WF_PACK_(type, ...) WF_PACK_##type##_(__VA_ARGS__)
#define WF_PACK_WORDS_(field, bytes) memcpy(to_, &from_->field, (bytes)), to_ += (bytes);
#define WF_PACK_FLAG_(field) *to_++ = from_->field;
#define WF_PACK_number_(name) WF_PACK_WORDS_(name, 8)
#define WF_PACK_integer_(name) WF_PACK_WORDS_(name, 8)
#define WF_PACK_flag_(name) WF_PACK_FLAG_(name)
#define WF_PACK_numbers_(name, count) WF_PACK_WORDS_(name, 8 * (count))
#define WF_PACK_ewma_(name) WF_PACK_WORDS_(name, 24)
#define WF_PACK_rate_of_change_(name) WF_PACK_WORDS_(name, 16) WF_PACK_FLAG_(name.known)
#define WF_PACK_hysteresis_(name) WF_PACK_FLAG_(name.active)
#define WF_PACK_debounce_(name) WF_PACK_WORDS_(name, 8) WF_PACK_FLAG_(name.pending)
#define WF_PACK_tumbling_window_(name) WF_PACK_WORDS_(name, 40)

#define WF_UNPACK_(type, ...) WF_UNPACK_##type##_(__VA_ARGS__)
#define WF_UNPACK_WORDS_(field, bytes) memcpy(&to_->field, from_, (bytes)), from_ += (bytes);
#define WF_UNPACK_FLAG_(field) to_->field = *from_++ != 0;
#define WF_UNPACK_number_(name) WF_UNPACK_WORDS_(name, 8)
#define WF_UNPACK_integer_(name) WF_UNPACK_WORDS_(name, 8)
#define WF_UNPACK_flag_(name) WF_UNPACK_FLAG_(name)
#define WF_UNPACK_numbers_(name, count) WF_UNPACK_WORDS_(name, 8 * (count))
#define WF_UNPACK_ewma_(name) WF_UNPACK_WORDS_(name, 24)
#define WF_UNPACK_rate_of_change_(name) WF_UNPACK_WORDS_(name, 16) WF_UNPACK_FLAG_(name.known)
#define WF_UNPACK_hysteresis_(name) WF_UNPACK_FLAG_(name.active)
#define WF_UNPACK_debounce_(name) WF_UNPACK_WORDS_(name, 8) WF_UNPACK_FLAG_(name.pending)
#define WF_UNPACK_tumbling_window_(name) WF_UNPACK_WORDS_(name, 40)

// ---------------------------------------------------------------- parameters: a field and a row of the table

#define WF_PARAMETER_FIELD_(type, field, ...) WF_PARAMETER_##type##_ field;
#define WF_PARAMETER_ROW_(type, field, ...)           \
    {.field_ = #field,                                \
     .type_ = WF_PARAMETER_##type,                    \
     .offset_ = offsetof(wf_struct_of_parameters_, field), __VA_ARGS__},
#define WF_PARAMETER_number_ double
#define WF_PARAMETER_integer_ int64_t
#define WF_PARAMETER_text_ const char *
#define WF_PARAMETER_flag_ bool
#define WF_PARAMETER_choice_ unsigned
#define WF_PARAMETER_texts_ wf_text_list
#define WF_PARAMETER_numbers_ wf_number_list

// ---------------------------------------------------------------- how wf_trigger counts its details

#define WF_ALERT_(...) WF_JOIN_(WF_ALERT_, WF_COUNT_(__VA_ARGS__))(__VA_ARGS__)
#define WF_JOIN_(a, b) WF_JOINED_(a, b)
#define WF_JOINED_(a, b) a##b
#define WF_COUNT_(...)                                                                                             \
    WF_COUNTED_(__VA_ARGS__, 25, a_detail_has_no_value, 23, a_detail_has_no_value, 21, a_detail_has_no_value, 19, \
                a_detail_has_no_value, 17, a_detail_has_no_value, 15, a_detail_has_no_value, 13,                  \
                a_detail_has_no_value, 11, a_detail_has_no_value, 9, a_detail_has_no_value, 7,                    \
                a_detail_has_no_value, 5, a_detail_has_no_value, 3, a_detail_has_no_value, 1, 0)
#define WF_COUNTED_(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, \
                    a22, a23, a24, a25, count, ...)                                                                 \
    count
#define WF_ALERT_1(summary) (summary), NULL, 0
#define WF_ALERT_3(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_2_(__VA_ARGS__)}, 1
#define WF_ALERT_5(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_4_(__VA_ARGS__)}, 2
#define WF_ALERT_7(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_6_(__VA_ARGS__)}, 3
#define WF_ALERT_9(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_8_(__VA_ARGS__)}, 4
#define WF_ALERT_11(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_10_(__VA_ARGS__)}, 5
#define WF_ALERT_13(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_12_(__VA_ARGS__)}, 6
#define WF_ALERT_15(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_14_(__VA_ARGS__)}, 7
#define WF_ALERT_17(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_16_(__VA_ARGS__)}, 8
#define WF_ALERT_19(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_18_(__VA_ARGS__)}, 9
#define WF_ALERT_21(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_20_(__VA_ARGS__)}, 10
#define WF_ALERT_23(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_22_(__VA_ARGS__)}, 11
#define WF_ALERT_25(summary, ...) (summary), (const wf_detail[]){WF_DETAILS_24_(__VA_ARGS__)}, 12
#define WF_DETAILS_2_(n, v) {(n), wf_value_of(v)}
#define WF_DETAILS_4_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_2_(__VA_ARGS__)
#define WF_DETAILS_6_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_4_(__VA_ARGS__)
#define WF_DETAILS_8_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_6_(__VA_ARGS__)
#define WF_DETAILS_10_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_8_(__VA_ARGS__)
#define WF_DETAILS_12_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_10_(__VA_ARGS__)
#define WF_DETAILS_14_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_12_(__VA_ARGS__)
#define WF_DETAILS_16_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_14_(__VA_ARGS__)
#define WF_DETAILS_18_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_16_(__VA_ARGS__)
#define WF_DETAILS_20_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_18_(__VA_ARGS__)
#define WF_DETAILS_22_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_20_(__VA_ARGS__)
#define WF_DETAILS_24_(n, v, ...) WF_DETAILS_2_(n, v), WF_DETAILS_22_(__VA_ARGS__)

#endif
