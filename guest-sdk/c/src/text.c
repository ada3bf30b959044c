// SPDX-License-Identifier: Apache-2.0
// Texts on their way to the host, and what goes to its log.
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

// Length of the UTF-8 sequence that a text begins with (RFC 3629); 0: it is none.
static size_t sequence(const uint8_t *text)
{
    uint8_t first = text[0], low = 0x80, high = 0xbf;
    size_t length;
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        length = 2;
    else if (first >= 0xe0 && first <= 0xef)
        length = 3;
    else if (first >= 0xf0 && first <= 0xf4)
        length = 4;
    else
        return 0;
    // What would be too long, a surrogate, or beyond the last character.
    if (first == 0xe0)
        low = 0xa0;
    if (first == 0xed)
        high = 0x9f;
    if (first == 0xf0)
        low = 0x90;
    if (first == 0xf4)
        high = 0x8f;
    if (text[1] < low || text[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (text[i] < 0x80 || text[i] > 0xbf)
            return 0;
    return length;
}

bool wf_is_utf8(const char *text)
{
    for (const uint8_t *at = (const uint8_t *)text; *at;) {
        size_t length = sequence(at);
        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

void wf_make_utf8(char *text)
{
    for (uint8_t *at = (uint8_t *)text; *at;) {
        size_t length = sequence(at);
        if (length == 0)
            *at = '?', length = 1;
        at += length;
    }
}

wf_string wf_lend(const char *what, const char *text)
{
    if (!text) {
        wf_fail("%s is NULL", what);
        text = "";
    } else if (!wf_is_utf8(text)) {
        wf_fail("%s is not UTF-8", what);
        text = "";
    }
    // Imports do not write what they borrow.
    return (wf_string){(uint8_t *)(uintptr_t)text, strlen(text)};
}

static void write_line(watchfire_rule_log_level_t level, char *line)
{
    wf_make_utf8(line);
    wf_string message = {(uint8_t *)line, strlen(line)};
    watchfire_rule_log_write(level, &message);
}

#define LINE 1001

#define LOG_FUNCTION(function, level)                \
    void function(const char *format, ...)           \
    {                                                \
        char line[LINE];                             \
        va_list arguments;                           \
        va_start(arguments, format);                 \
        vsnprintf(line, sizeof line, format, arguments); \
        va_end(arguments);                           \
        write_line(level, line);                     \
    }

LOG_FUNCTION(wf_debug, WATCHFIRE_RULE_LOG_LEVEL_DEBUG)
LOG_FUNCTION(wf_info, WATCHFIRE_RULE_LOG_LEVEL_INFO)
LOG_FUNCTION(wf_warn, WATCHFIRE_RULE_LOG_LEVEL_WARN)
LOG_FUNCTION(wf_error, WATCHFIRE_RULE_LOG_LEVEL_ERROR)

_Noreturn void wf_panic_(const char *function, int line, const char *format, ...)
{
    char text[LINE];
    int length = snprintf(text, sizeof text, "%s, line %d: ", function, line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + length, sizeof text - (size_t)length, format, arguments);
    va_end(arguments);
    write_line(WATCHFIRE_RULE_LOG_LEVEL_ERROR, text);
    __builtin_trap();
}
