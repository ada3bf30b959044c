// SPDX-License-Identifier: Apache-2.0
// Parameters: a table makes the JSON Schema of the manifest, and takes what the deployment gives.
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

// What texts and lists of the parameters stand in; as old as the rule.
static wf_arena arena;

static const char *name_of(const wf_parameter *parameter)
{
    return parameter->name ? parameter->name : parameter->field_;
}

static size_t length_of(const char *const *items)
{
    size_t count = 0;
    while (count < WF_ITEMS && items[count])
        count++;
    return count;
}

static unsigned default_choice(const wf_parameter *parameter)
{
    for (unsigned i = 0; parameter->text && i < length_of(parameter->choices); i++)
        if (strcmp(parameter->choices[i], parameter->text) == 0)
            return i;
    return 0;
}

// ---------------------------------------------------------------- the schema

struct writer {
    char *text;
    size_t length, room;
};

static void put(struct writer *writer, const char *text)
{
    size_t length = strlen(text);
    writer->text = wf_grow(writer->text, &writer->room, writer->length + length + 1, 1);
    memcpy(writer->text + writer->length, text, length + 1);
    writer->length += length;
}

static void put_text(struct writer *writer, const char *text)
{
    put(writer, "\"");
    for (; *text; text++) {
        char piece[8] = {*text};
        if (*text == '"' || *text == '\\')
            snprintf(piece, sizeof piece, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            snprintf(piece, sizeof piece, "\\u%04x", (unsigned)*text);
        put(writer, piece);
    }
    put(writer, "\"");
}

// With the fewest digits that give the same number again.
static void put_number(struct writer *writer, double number)
{
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number)
            break;
    }
    put(writer, text);
}

static void put_member(struct writer *writer, const char *name)
{
    put(writer, ",\"");
    put(writer, name);
    put(writer, "\":");
}

static void put_texts(struct writer *writer, const char *const *items)
{
    put(writer, "[");
    for (size_t i = 0; i < length_of(items); i++) {
        if (i > 0)
            put(writer, ",");
        put_text(writer, items[i]);
    }
    put(writer, "]");
}

static void put_default(struct writer *writer, const wf_parameter *parameter)
{
    char text[32];
    put_member(writer, "default");
    switch (parameter->type_) {
    case WF_PARAMETER_number:
        put_number(writer, parameter->number);
        break;
    case WF_PARAMETER_integer:
        snprintf(text, sizeof text, "%lld", (long long)parameter->integer);
        put(writer, text);
        break;
    case WF_PARAMETER_text:
        put_text(writer, parameter->text ? parameter->text : "");
        break;
    case WF_PARAMETER_flag:
        put(writer, parameter->flag ? "true" : "false");
        break;
    case WF_PARAMETER_choice:
        put_text(writer, parameter->choices[default_choice(parameter)]);
        break;
    case WF_PARAMETER_texts:
        put_texts(writer, parameter->texts);
        break;
    case WF_PARAMETER_numbers:
        put(writer, "[");
        for (size_t i = 0; i < parameter->count; i++) {
            if (i > 0)
                put(writer, ",");
            put_number(writer, parameter->numbers[i]);
        }
        put(writer, "]");
    }
}

static void put_range(struct writer *writer, const wf_parameter *parameter)
{
    const double *range = parameter->range;
    if (range[0] == 0 && range[1] == 0)
        return;
    if (isfinite(range[0])) {
        put_member(writer, "minimum");
        put_number(writer, range[0]);
    }
    if (isfinite(range[1])) {
        put_member(writer, "maximum");
        put_number(writer, range[1]);
    }
}

static void put_parameter(struct writer *writer, const wf_parameter *parameter)
{
    static const char *const types[] = {
        [WF_PARAMETER_number] = "{\"type\":\"number\"",
        [WF_PARAMETER_integer] = "{\"type\":\"integer\"",
        [WF_PARAMETER_text] = "{\"type\":\"string\"",
        [WF_PARAMETER_flag] = "{\"type\":\"boolean\"",
        [WF_PARAMETER_choice] = "{\"type\":\"string\"",
        [WF_PARAMETER_texts] = "{\"type\":\"array\",\"items\":{\"type\":\"string\"}",
        [WF_PARAMETER_numbers] = "{\"type\":\"array\",\"items\":{\"type\":\"number\"}",
    };
    put(writer, types[parameter->type_]);
    if (parameter->type_ == WF_PARAMETER_choice) {
        put_member(writer, "enum");
        put_texts(writer, parameter->choices);
    }
    if (!parameter->required)
        put_default(writer, parameter);
    put_range(writer, parameter);
    if (parameter->unit) {
        put_member(writer, "unit");
        put_text(writer, parameter->unit);
    }
    if (parameter->description) {
        put_member(writer, "description");
        put_text(writer, parameter->description);
    }
    put(writer, "}");
}

static char *schema(const wf_parameters *parameters)
{
    struct writer writer = {0};
    put(&writer, "{\"type\":\"object\",\"properties\":{");
    for (size_t i = 0; i < parameters->count; i++) {
        if (i > 0)
            put(&writer, ",");
        put_text(&writer, name_of(&parameters->table[i]));
        put(&writer, ":");
        put_parameter(&writer, &parameters->table[i]);
    }
    put(&writer, "},\"required\":[");
    bool any = false;
    for (size_t i = 0; i < parameters->count; i++) {
        if (!parameters->table[i].required)
            continue;
        if (any)
            put(&writer, ",");
        put_text(&writer, name_of(&parameters->table[i]));
        any = true;
    }
    put(&writer, "],\"additionalProperties\":false}");
    return writer.text;
}

// ---------------------------------------------------------------- what the deployment gives

// The host gives valid JSON, and values that are valid by the schema: what is not is found, and not explained.
struct reader {
    char *at;
    bool bad;
};

static void skip_space(struct reader *reader)
{
    while (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r')
        reader->at++;
}

static bool take(struct reader *reader, char byte)
{
    skip_space(reader);
    if (*reader->at != byte)
        return false;
    reader->at++;
    return true;
}

static bool take_word(struct reader *reader, const char *word)
{
    skip_space(reader);
    size_t length = strlen(word);
    if (strncmp(reader->at, word, length) != 0)
        return false;
    reader->at += length;
    return true;
}

static unsigned take_hex(struct reader *reader)
{
    unsigned code = 0;
    for (int i = 0; i < 4; i++) {
        char c = *reader->at;
        unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a') + 10;
        if (digit > 15) {
            reader->bad = true;
            return 0;
        }
        code = code * 16 + digit;
        reader->at++;
    }
    return code;
}

static char *put_character(char *to, unsigned code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    }
    return to;
}

static char *take_escape(struct reader *reader, char *to)
{
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    char c = *reader->at++;
    if (c == 'u') {
        unsigned code = take_hex(reader);
        if (code >= 0xd800 && code < 0xdc00 && reader->at[0] == '\\' && reader->at[1] == 'u') {
            reader->at += 2;
            code = 0x10000 + ((code - 0xd800) << 10) + (take_hex(reader) - 0xdc00);
        }
        return put_character(to, code);
    }
    const char *at = c ? strchr(names, c) : NULL;
    if (!at) {
        reader->bad = true;
        reader->at--;
        return to;
    }
    *to++ = meant[at - names];
    return to;
}

// Decoded where it stands: no escape is shorter than what it stands for.
static char *take_text(struct reader *reader)
{
    if (!take(reader, '"')) {
        reader->bad = true;
        return reader->at;
    }
    char *text = reader->at, *to = text;
    while (!reader->bad && *reader->at != '"') {
        if (!*reader->at) {
            reader->bad = true;
        } else if (*reader->at == '\\') {
            reader->at++;
            to = take_escape(reader, to);
        } else {
            *to++ = *reader->at++;
        }
    }
    if (reader->bad)
        return text;
    reader->at++;
    *to = 0;
    return text;
}

static double take_number(struct reader *reader)
{
    skip_space(reader);
    char *end;
    double number = strtod(reader->at, &end);
    reader->bad |= end == reader->at;
    reader->at = end;
    return number;
}

static int64_t take_integer(struct reader *reader)
{
    skip_space(reader);
    char *end, *begin = reader->at;
    long long integer = strtoll(begin, &end, 10);
    // JSON Schema counts 3.0 and 3e2 among the integers.
    if (*end == '.' || *end == 'e' || *end == 'E')
        return (int64_t)take_number(reader);
    reader->bad |= end == begin;
    reader->at = end;
    return integer;
}

static void skip_value(struct reader *reader)
{
    skip_space(reader);
    size_t depth = 0;
    do {
        if (*reader->at == '"') {
            take_text(reader);
        } else if (!*reader->at) {
            reader->bad = true;
        } else {
            char c = *reader->at;
            if (depth == 0 && (c == ',' || c == '}' || c == ']'))
                return;
            depth += c == '{' || c == '[';
            depth -= c == '}' || c == ']';
            reader->at++;
        }
    } while (!reader->bad && (depth > 0 || !strchr(",}]", *reader->at)));
}

// Counts the items of a list that begins here.
static size_t count_items(struct reader reader)
{
    size_t count = 0;
    // Texts are decoded where they stand: counted in a copy.
    size_t bytes = strlen(reader.at) + 1;
    reader.at = memcpy(wf_arena_take(&wf_callback_arena, bytes), reader.at, bytes);
    skip_space(&reader);
    if (*reader.at == ']')
        return 0;
    do {
        skip_value(&reader);
        count++;
    } while (!reader.bad && take(&reader, ','));
    return count;
}

static void take_list(struct reader *reader, const wf_parameter *parameter, void *field)
{
    if (!take(reader, '[')) {
        reader->bad = true;
        return;
    }
    size_t count = count_items(*reader);
    const char **texts = NULL;
    double *numbers = NULL;
    if (parameter->type_ == WF_PARAMETER_texts)
        *(wf_text_list *)field = (wf_text_list){texts = wf_arena_take(&arena, count * sizeof *texts), count};
    else
        *(wf_number_list *)field = (wf_number_list){numbers = wf_arena_take(&arena, count * sizeof *numbers), count};
    for (size_t i = 0; i < count && !reader->bad; i++) {
        if (i > 0)
            reader->bad |= !take(reader, ',');
        if (texts)
            texts[i] = take_text(reader);
        else
            numbers[i] = take_number(reader);
    }
    reader->bad |= !take(reader, ']');
}

static void take_value(struct reader *reader, const wf_parameter *parameter, void *field)
{
    switch (parameter->type_) {
    case WF_PARAMETER_number:
        *(double *)field = take_number(reader);
        break;
    case WF_PARAMETER_integer:
        *(int64_t *)field = take_integer(reader);
        break;
    case WF_PARAMETER_text:
        *(const char **)field = take_text(reader);
        break;
    case WF_PARAMETER_flag:
        *(bool *)field = take_word(reader, "true");
        reader->bad |= !*(bool *)field && !take_word(reader, "false");
        break;
    case WF_PARAMETER_choice: {
        const char *text = take_text(reader);
        unsigned i = 0;
        while (i < length_of(parameter->choices) && strcmp(parameter->choices[i], text) != 0)
            i++;
        reader->bad |= i == length_of(parameter->choices);
        *(unsigned *)field = i;
        break;
    }
    default:
        take_list(reader, parameter, field);
    }
}

static void take_default(const wf_parameter *parameter, void *field)
{
    switch (parameter->type_) {
    case WF_PARAMETER_number:
        *(double *)field = parameter->number;
        break;
    case WF_PARAMETER_integer:
        *(int64_t *)field = parameter->integer;
        break;
    case WF_PARAMETER_text:
        *(const char **)field = parameter->text ? parameter->text : "";
        break;
    case WF_PARAMETER_flag:
        *(bool *)field = parameter->flag;
        break;
    case WF_PARAMETER_choice:
        *(unsigned *)field = default_choice(parameter);
        break;
    case WF_PARAMETER_texts:
        *(wf_text_list *)field = (wf_text_list){parameter->texts, length_of(parameter->texts)};
        break;
    case WF_PARAMETER_numbers:
        *(wf_number_list *)field = (wf_number_list){parameter->numbers, parameter->count};
    }
}

const char *wf_parameters_json(void)
{
    wf_string json;
    watchfire_rule_config_json(&json);
    char *text = wf_arena_text(&arena, wf_text_from_host(json));
    full_rule_string_free(&json);
    return text;
}

// The host fills in defaults; but a schema of the rule's own may not have all of those of the table.
static void read(const wf_parameters *parameters)
{
    wf_arena_reset(&arena);
    memset(parameters->values, 0, parameters->size);
    for (size_t i = 0; i < parameters->count; i++)
        take_default(&parameters->table[i], (char *)parameters->values + parameters->table[i].offset_);
    wf_string json;
    watchfire_rule_config_json(&json);
    struct reader reader = {wf_arena_text(&arena, wf_text_from_host(json)), false};
    full_rule_string_free(&json);
    if (!take(&reader, '{')) {
        wf_fail("the parameters are no JSON object");
        return;
    }
    if (take(&reader, '}'))
        return;
    do {
        const char *name = take_text(&reader);
        reader.bad |= !take(&reader, ':');
        const wf_parameter *found = NULL;
        for (size_t i = 0; i < parameters->count && !found; i++)
            if (strcmp(name_of(&parameters->table[i]), name) == 0)
                found = &parameters->table[i];
        if (found && !take_word(&reader, "null"))
            take_value(&reader, found, (char *)parameters->values + found->offset_);
        else if (!found)
            skip_value(&reader);
        if (reader.bad)
            wf_fail("the parameter %s is no good", name);
    } while (!reader.bad && take(&reader, ','));
}

const struct wf_parameters_functions_ wf_parameters_functions_ = {read, schema};
