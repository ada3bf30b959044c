package rule

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"
)

var (
	severityType = reflect.TypeFor[Severity]()
	floatsType   = reflect.TypeFor[[]float64]()
	textsType    = reflect.TypeFor[[]string]()
)

// schemaOf makes the JSON Schema of a struct of parameters.
func schemaOf(of reflect.Type) (string, error) {
	if of.Kind() == reflect.String {
		return "", errors.New("parameters as text need a Schema in the manifest")
	}
	if of.Kind() != reflect.Struct {
		return "", fmt.Errorf("parameters are a struct, not %s", of)
	}
	if of.NumField() == 0 {
		return "", nil
	}
	schema := []byte(`{"type":"object","properties":{`)
	var required []byte
	for i := range of.NumField() {
		field := of.Field(i)
		if i > 0 {
			schema = append(schema, ',')
		}
		name := parameterName(field)
		schema = append(appendJSON(schema, name), ':')
		property, optional, err := property(field)
		if err != nil {
			return "", fmt.Errorf("parameter %s: %w", field.Name, err)
		}
		schema = append(schema, property...)
		if !optional {
			if required != nil {
				required = append(required, ',')
			}
			required = appendJSON(required, name)
		}
	}
	schema = append(schema, '}')
	if required != nil {
		schema = append(append(append(schema, `,"required":[`...), required...), ']')
	}
	return string(append(schema, `,"additionalProperties":false}`...)), nil
}

// parameterName is the name of a parameter: that of its tag, or that of its field, as off_delay for OffDelay.
func parameterName(field reflect.StructField) string {
	if name, ok := field.Tag.Lookup("name"); ok {
		return name
	}
	var name []rune
	letters := []rune(field.Name)
	for i, letter := range letters {
		if unicode.IsUpper(letter) {
			// Between words, and before the last letter of an abbreviation that a word follows.
			if i > 0 && (!unicode.IsUpper(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1])) {
				name = append(name, '_')
			}
			letter = unicode.ToLower(letter)
		}
		name = append(name, letter)
	}
	return string(name)
}

// property is the schema of a parameter, and whether it need not be given.
func property(field reflect.StructField) (schema []byte, optional bool, err error) {
	if !field.IsExported() {
		return nil, false, errors.New("its field is not exported")
	}
	of := field.Type
	if of.Kind() == reflect.Pointer {
		of, optional = of.Elem(), true
	}
	choice, isChoice := field.Tag.Lookup("choice")
	choices := strings.Split(choice, ",")
	var scalar func(text string) (string, error)
	switch {
	case of == severityType:
		schema, scalar = append(schema, `{"type":"string"`...), jsonText
		choices, isChoice = severities[:], true
	case of.Kind() == reflect.Float64:
		schema, scalar = append(schema, `{"type":"number"`...), jsonNumber
	case of.Kind() == reflect.Int64 || of.Kind() == reflect.Int:
		schema, scalar = append(schema, `{"type":"integer"`...), jsonInteger
	case of.Kind() == reflect.String:
		schema, scalar = append(schema, `{"type":"string"`...), jsonText
	case of.Kind() == reflect.Bool:
		schema, scalar = append(schema, `{"type":"boolean"`...), jsonFlag
	case of == floatsType:
		schema, scalar = append(schema, `{"type":"array","items":{"type":"number"}`...), jsonList(jsonNumber)
	case of == textsType:
		schema, scalar = append(schema, `{"type":"array","items":{"type":"string"}`...), jsonList(jsonText)
	default:
		return nil, false, fmt.Errorf("%s is no parameter: what is one is float64, int64, int, string, bool, "+
			"rule.Severity, []string and []float64; for others give the manifest a Schema", of)
	}
	numeric := of.Kind() == reflect.Float64 || of.Kind() == reflect.Int64 || of.Kind() == reflect.Int
	add := func(keyword, tag string, to func(string) (string, error), allowed bool) {
		text, there := field.Tag.Lookup(tag)
		if !there || err != nil {
			return
		}
		json, wrong := to(text)
		if wrong == nil && !allowed {
			wrong = fmt.Errorf("means nothing for %s", of)
		}
		if wrong != nil {
			err = fmt.Errorf("tag %s: %w", tag, wrong)
			return
		}
		schema = append(appendJSON(append(schema, ','), keyword), ':')
		schema = append(schema, json...)
	}
	if isChoice {
		if of.Kind() != reflect.String && of != severityType {
			return nil, false, fmt.Errorf("tag choice: means nothing for %s", of)
		}
		schema = append(schema, `,"enum":[`...)
		for i, one := range choices {
			if i > 0 {
				schema = append(schema, ',')
			}
			choices[i] = strings.TrimSpace(one)
			schema = appendJSON(schema, choices[i])
		}
		schema = append(schema, ']')
	}
	add("default", "default", func(text string) (string, error) {
		optional = true
		if isChoice && !contains(choices, text) {
			return "", fmt.Errorf("%q is none of the choices", text)
		}
		return scalar(text)
	}, true)
	add("minimum", "min", scalar, numeric)
	add("maximum", "max", scalar, numeric)
	add("unit", "unit", jsonText, true)
	add("description", "doc", jsonText, true)
	return append(schema, '}'), optional, err
}

func contains(list []string, text string) bool {
	for _, one := range list {
		if one == text {
			return true
		}
	}
	return false
}

func jsonText(text string) (string, error) { return string(appendJSON(nil, text)), nil }

func jsonNumber(text string) (string, error) {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || value-value != 0 {
		return "", fmt.Errorf("%q is no number", text)
	}
	return strconv.FormatFloat(value, 'g', -1, 64), nil
}

func jsonInteger(text string) (string, error) {
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return "", fmt.Errorf("%q is no integer", text)
	}
	return strconv.FormatInt(value, 10), nil
}

func jsonFlag(text string) (string, error) {
	if text != "true" && text != "false" {
		return "", fmt.Errorf("%q is neither true nor false", text)
	}
	return text, nil
}

// jsonList is a list written with commas; an empty text is an empty list.
func jsonList(item func(string) (string, error)) func(string) (string, error) {
	return func(text string) (string, error) {
		if text == "" {
			return "[]", nil
		}
		var items []string
		for one := range strings.SplitSeq(text, ",") {
			json, err := item(strings.TrimSpace(one))
			if err != nil {
				return "", err
			}
			items = append(items, json)
		}
		return "[" + strings.Join(items, ",") + "]", nil
	}
}

// decodeParameters sets parameters from JSON, or hands on the JSON itself to one that is a text.
func decodeParameters(text string, to reflect.Value) error {
	if to.Kind() == reflect.String {
		to.SetString(text)
		return nil
	}
	value, err := parseJSON(text)
	if err != nil {
		return err
	}
	return set(to, value)
}

// set sets a value from JSON. Names that the struct has not are passed over: the host has checked them.
func set(to reflect.Value, from any) error {
	if from == nil {
		return nil
	}
	if to.Kind() == reflect.Pointer {
		to.Set(reflect.New(to.Type().Elem()))
		return set(to.Elem(), from)
	}
	switch from := from.(type) {
	case bool:
		if to.Kind() == reflect.Bool {
			to.SetBool(from)
			return nil
		}
	case string:
		switch {
		case to.Type() == severityType:
			for i, name := range severities {
				if name == from {
					to.SetUint(uint64(i))
					return nil
				}
			}
			return fmt.Errorf("%q is no severity", from)
		case to.Kind() == reflect.String:
			to.SetString(from)
			return nil
		}
	case number:
		switch to.Kind() {
		case reflect.Float64:
			value, err := strconv.ParseFloat(string(from), 64)
			to.SetFloat(value)
			return err
		case reflect.Int64, reflect.Int:
			value, err := strconv.ParseInt(string(from), 10, 64)
			if err != nil {
				// JSON Schema takes 3.0 for an integer too.
				var float float64
				float, err = strconv.ParseFloat(string(from), 64)
				value = int64(float)
				if err == nil && float64(value) != float {
					err = fmt.Errorf("%s is no integer", from)
				}
			}
			to.SetInt(value)
			return err
		}
	case []any:
		if to.Kind() == reflect.Slice {
			to.Set(reflect.MakeSlice(to.Type(), len(from), len(from)))
			for i, item := range from {
				if err := set(to.Index(i), item); err != nil {
					return fmt.Errorf("%d: %w", i, err)
				}
			}
			return nil
		}
	case map[string]any:
		if to.Kind() == reflect.Struct {
			for i := range to.NumField() {
				if !to.Type().Field(i).IsExported() {
					continue
				}
				name := parameterName(to.Type().Field(i))
				if err := set(to.Field(i), from[name]); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		}
		if to.Kind() == reflect.Map && to.Type().Key().Kind() == reflect.String {
			to.Set(reflect.MakeMapWithSize(to.Type(), len(from)))
			for name, item := range from {
				value := reflect.New(to.Type().Elem()).Elem()
				if err := set(value, item); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				to.SetMapIndex(reflect.ValueOf(name).Convert(to.Type().Key()), value)
			}
			return nil
		}
	}
	return fmt.Errorf("%v is no %s", from, to.Type())
}
