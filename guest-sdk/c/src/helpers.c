// SPDX-License-Identifier: Apache-2.0
// Helpers. Each operation stands as it is written: the same in every language, to the last bit.
#include "internal.h"

void wf_ewma_update(wf_ewma *ewma, double x, double alpha)
{
    if (ewma->count == 0) {
        ewma->mean = x;
        ewma->variance = 0;
    } else {
        double delta = x - ewma->mean;
        double step = alpha * delta;
        ewma->mean = ewma->mean + step;
        ewma->variance = (1 - alpha) * (ewma->variance + step * delta);
    }
    ewma->count += 1;
}

double wf_ewma_deviation(const wf_ewma *ewma, double x)
{
    return ewma->variance == 0 ? 0 : (x - ewma->mean) / sqrt(ewma->variance);
}

double wf_rate_of_change_update(wf_rate_of_change *rate, wf_time time, double x)
{
    double answer = NAN;
    if (rate->known) {
        if (time <= rate->time)
            return NAN;
        answer = (x - rate->value) / ((double)(time - rate->time) / 1e6);
    }
    *rate = (wf_rate_of_change){.value = x, .time = time, .known = true};
    return answer;
}

wf_edge wf_hysteresis_update(wf_hysteresis *hysteresis, double x, double on, double off)
{
    bool high = on >= off;
    if (!hysteresis->active && (high ? x > on : x < on)) {
        hysteresis->active = true;
        return WF_RISING;
    }
    if (hysteresis->active && (high ? x < off : x > off)) {
        hysteresis->active = false;
        return WF_FALLING;
    }
    return WF_UNCHANGED;
}

bool wf_debounce_update(wf_debounce *debounce, bool condition, wf_time time, wf_time hold)
{
    if (!condition) {
        debounce->pending = false;
        return false;
    }
    if (!debounce->pending) {
        debounce->pending = true;
        debounce->since = time;
    }
    return time - debounce->since >= hold;
}

bool wf_tumbling_window_add(wf_tumbling_window *window, wf_time time, double x, wf_time span, wf_window *closed)
{
    if (span <= 0) {
        wf_fail("a window of %lld microseconds", (long long)span);
        return false;
    }
    int64_t index = wf_floor_divide(time, span);
    if (window->count > 0 && index == window->index) {
        window->count += 1;
        window->sum += x;
        if (x < window->min)
            window->min = x;
        if (x > window->max)
            window->max = x;
        return false;
    }
    bool over = window->count > 0;
    if (over && index < window->index)
        return false;
    if (over)
        *closed = (wf_window){
            .start = window->index * span,
            .end = window->index * span + span,
            .count = window->count,
            .sum = window->sum,
            .min = window->min,
            .max = window->max,
            .mean = window->sum / (double)window->count,
        };
    *window = (wf_tumbling_window){.index = index, .count = 1, .sum = x, .min = x, .max = x};
    return over;
}

// ---------------------------------------------------------------- sliding windows

// A piece is laid out as a tumbling window is.
#define PIECE(FIELD) FIELD(tumbling_window, window)
WF_STATE(piece, PIECE)

static bool check(wf_sliding_window *window)
{
    if (window->pieces == 0 || window->span < window->pieces) {
        wf_fail("a window of %lld microseconds in %u pieces", (long long)window->span, (unsigned)window->pieces);
        return false;
    }
    if (!window->slots_) {
        window->made_ = window->pieces;
        window->slots_ = wf_allocate(window->pieces * sizeof *window->slots_);
        uint32_t first = window->name ? wf_slot_of(window->name) : 0;
        for (uint32_t i = 0; i < window->pieces; i++) {
            window->slots_[i].layout = WF_LAYOUT(piece);
            window->slots_[i].number = first + i;
        }
    }
    if (window->made_ != window->pieces) {
        wf_fail("a window of %u pieces has %u now", (unsigned)window->made_, (unsigned)window->pieces);
        return false;
    }
    return true;
}

static wf_tumbling_window *piece_at(wf_sliding_window *window, wf_device device, int64_t index)
{
    int64_t pieces = window->pieces;
    struct piece *piece = wf_slot_state(&window->slots_[index - wf_floor_divide(index, pieces) * pieces], device);
    return &piece->window;
}

void wf_sliding_window_add(wf_sliding_window *window, wf_device device, wf_time time, double x)
{
    if (!check(window))
        return;
    int64_t index = wf_floor_divide(time, window->span / window->pieces);
    wf_tumbling_window *piece = piece_at(window, device, index);
    if (piece->count > 0 && piece->index > index)
        return;
    if (piece->count == 0 || piece->index < index) {
        *piece = (wf_tumbling_window){.index = index, .count = 1, .sum = x, .min = x, .max = x};
        return;
    }
    piece->count += 1;
    piece->sum += x;
    if (x < piece->min)
        piece->min = x;
    if (x > piece->max)
        piece->max = x;
}

wf_window wf_sliding_window_over(wf_sliding_window *window, wf_device device, wf_time time)
{
    wf_window over = {.min = NAN, .max = NAN, .mean = NAN};
    if (!check(window))
        return over;
    wf_time length = window->span / window->pieces;
    int64_t last = wf_floor_divide(time, length);
    over.start = (last - window->pieces + 1) * length;
    over.end = (last + 1) * length;
    for (int64_t index = last - window->pieces + 1; index <= last; index++) {
        const wf_tumbling_window *piece = piece_at(window, device, index);
        if (piece->count == 0 || piece->index != index)
            continue;
        if (over.count == 0 || piece->min < over.min)
            over.min = piece->min;
        if (over.count == 0 || piece->max > over.max)
            over.max = piece->max;
        over.count += piece->count;
        over.sum += piece->sum;
    }
    if (over.count > 0)
        over.mean = over.sum / (double)over.count;
    return over;
}
