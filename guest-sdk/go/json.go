package rule

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A small reader of JSON. The parameters come from the host, valid and with their defaults; encoding/json would make the
// component a fifth larger, and each rule that much slower to compile.

// number is a JSON number as it was written: an integer keeps all its digits.
type number string

type jsonReader struct {
	text string
	at   int
}

// parseJSON gives nil, bool, number, string, []any or map[string]any.
func parseJSON(text string) (any, error) {
	reader := jsonReader{text: text}
	value, err := reader.value(0)
	if err == nil && reader.peek() != 0 {
		err = errors.New("something follows the value")
	}
	if err != nil {
		return nil, fmt.Errorf("JSON, at byte %d: %w", reader.at, err)
	}
	return value, nil
}

// peek is the next byte that is no space; 0: the end.
func (reader *jsonReader) peek() byte {
	for ; reader.at < len(reader.text); reader.at++ {
		switch c := reader.text[reader.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (reader *jsonReader) take(c byte) bool {
	if reader.peek() == c {
		reader.at++
		return true
	}
	return false
}

func (reader *jsonReader) value(depth int) (any, error) {
	if depth > 100 {
		return nil, errors.New("nested too deep")
	}
	switch c := reader.peek(); {
	case c == '{':
		return reader.object(depth)
	case c == '[':
		return reader.list(depth)
	case c == '"':
		return reader.string()
	case c == '-' || c >= '0' && c <= '9':
		begin := reader.at
		for reader.at < len(reader.text) {
			switch c := reader.text[reader.at]; {
			case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
				reader.at++
				continue
			}
			break
		}
		text := reader.text[begin:reader.at]
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return nil, fmt.Errorf("%s is no number", text)
		}
		return number(text), nil
	}
	for word, value := range map[string]any{"true": true, "false": false, "null": nil} {
		if rest := reader.text[reader.at:]; len(rest) >= len(word) && rest[:len(word)] == word {
			reader.at += len(word)
			return value, nil
		}
	}
	return nil, errors.New("there is no value")
}

func (reader *jsonReader) object(depth int) (any, error) {
	reader.at++
	object := map[string]any{}
	if reader.take('}') {
		return object, nil
	}
	for {
		if reader.peek() != '"' {
			return nil, errors.New("a name is missing")
		}
		name, err := reader.string()
		if err != nil {
			return nil, err
		}
		if !reader.take(':') {
			return nil, errors.New("':' is missing")
		}
		value, err := reader.value(depth + 1)
		if err != nil {
			return nil, err
		}
		object[name] = value
		if reader.take('}') {
			return object, nil
		}
		if !reader.take(',') {
			return nil, errors.New("',' or '}' is missing")
		}
	}
}

func (reader *jsonReader) list(depth int) (any, error) {
	reader.at++
	list := []any{}
	if reader.take(']') {
		return list, nil
	}
	for {
		value, err := reader.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
		if reader.take(']') {
			return list, nil
		}
		if !reader.take(',') {
			return nil, errors.New("',' or ']' is missing")
		}
	}
}

func (reader *jsonReader) string() (string, error) {
	reader.at++
	var text []byte
	for reader.at < len(reader.text) {
		c := reader.text[reader.at]
		reader.at++
		switch {
		case c == '"':
			return string(text), nil
		case c < ' ':
			return "", errors.New("a control character in a text")
		case c != '\\':
			text = append(text, c)
			continue
		}
		if reader.at == len(reader.text) {
			break
		}
		c = reader.text[reader.at]
		reader.at++
		switch c {
		case '"', '\\', '/':
			text = append(text, c)
		case 'b':
			text = append(text, '\b')
		case 'f':
			text = append(text, '\f')
		case 'n':
			text = append(text, '\n')
		case 'r':
			text = append(text, '\r')
		case 't':
			text = append(text, '\t')
		case 'u':
			r, ok := reader.unit()
			if ok && utf16.IsSurrogate(r) {
				second := rune(0)
				if len(reader.text)-reader.at > 1 && reader.text[reader.at:reader.at+2] == `\u` {
					reader.at += 2
					second, ok = reader.unit()
				}
				// What is no pair becomes the replacement character.
				r = utf16.DecodeRune(r, second)
			}
			if !ok {
				return "", errors.New(`\u without four digits`)
			}
			text = utf8.AppendRune(text, r)
		default:
			return "", fmt.Errorf("unknown escape %q", c)
		}
	}
	return "", errors.New("a text does not end")
}

// unit is the four digits after \u.
func (reader *jsonReader) unit() (rune, bool) {
	if len(reader.text)-reader.at < 4 {
		return 0, false
	}
	unit, err := strconv.ParseUint(reader.text[reader.at:reader.at+4], 16, 16)
	reader.at += 4
	return rune(unit), err == nil
}

// appendJSON appends a text as JSON.
func appendJSON(to []byte, text string) []byte {
	const digits = "0123456789abcdef"
	to = append(to, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		case r < ' ':
			to = append(to, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			to = utf8.AppendRune(to, r)
		}
	}
	return append(to, '"')
}
