package rule

import (
	"reflect"
	"strings"
	"testing"
)

func TestSchema(t *testing.T) {
	type parameters struct {
		High      float64   `default:"80" min:"-1000" max:"1e3" unit:"°C" doc:"Above \"it\"."`
		OffDelay  int64     `min:"0"`
		Name      string    `default:"plant"`
		Enabled   bool      `default:"true"`
		Mode      string    `choice:"fast, slow" default:"fast"`
		Severity  Severity  `default:"major"`
		Metrics   []string  `default:"a, b"`
		Limits    []float64 `default:""`
		HTTPCode  int       `name:"code"`
		MaxHTTPOn *float64
	}
	schema, err := schemaOf(reflect.TypeFor[parameters]())
	if err != nil {
		t.Fatal(err)
	}
	check(t, schema, `{"type":"object","properties":{`+strings.Join([]string{
		`"high":{"type":"number","default":80,"minimum":-1000,"maximum":1000,"unit":"°C","description":"Above \"it\"."}`,
		`"off_delay":{"type":"integer","minimum":0}`,
		`"name":{"type":"string","default":"plant"}`,
		`"enabled":{"type":"boolean","default":true}`,
		`"mode":{"type":"string","enum":["fast","slow"],"default":"fast"}`,
		`"severity":{"type":"string","enum":["info","warning","minor","major","critical"],"default":"major"}`,
		`"metrics":{"type":"array","items":{"type":"string"},"default":["a","b"]}`,
		`"limits":{"type":"array","items":{"type":"number"},"default":[]}`,
		`"code":{"type":"integer"}`,
		`"max_http_on":{"type":"number"}`,
	}, ",")+`},"required":["off_delay","code"],"additionalProperties":false}`)

	var got parameters
	err = decodeParameters(`{"high": -8.5e1, "off_delay": 9007199254740993, "name": "a\u00e4\ud83d\ude00\n\"", "enabled": false,
		"mode": "slow", "severity": "warning", "metrics": [], "limits": [1, 2.5], "code": 3.0, "max_http_on": null, "other": {}}`,
		reflect.ValueOf(&got).Elem())
	if err != nil {
		t.Fatal(err)
	}
	want := parameters{-85, 9007199254740993, "aä😀\n\"", false, "slow", Warning, []string{}, []float64{1, 2.5}, 3, nil}
	check(t, reflect.DeepEqual(got, want), true)
}

func TestWhatIsNoParameter(t *testing.T) {
	for want, of := range map[string]any{
		`parameter High: tag default: "x" is no number`: struct {
			High float64 `default:"x"`
		}{},
		`parameter Name: tag min: means nothing for string`: struct {
			Name string `min:"0"`
		}{},
		`parameter Mode: tag default: "c" is none of the choices`: struct {
			Mode string `choice:"a,b" default:"c"`
		}{},
		`parameter hidden: its field is not exported`: struct{ hidden float64 }{},
		`parameters are a struct, not int`:            0,
	} {
		_, err := schemaOf(reflect.TypeOf(of))
		if err == nil {
			t.Errorf("nothing, want %s", want)
			continue
		}
		check(t, err.Error(), want)
	}
	for _, text := range []string{`{`, `{"a":}`, `[1,]`, `"`, `"\u12"`, `{} {}`, `-`, `nul`, strings.Repeat("[", 200)} {
		if value, err := parseJSON(text); err == nil {
			t.Errorf("%s is taken for %v", text, value)
		}
	}
}

// Parameters of a whole schema may be of any shape.
func TestNestedParameters(t *testing.T) {
	type limit struct {
		Metric string
		High   *float64
	}
	var got struct {
		Limits []limit
		Names  map[string]int64
	}
	err := decodeParameters(`{"limits":[{"metric":"a","high":3},{"metric":"b"}],"names":{"c":4}}`, reflect.ValueOf(&got).Elem())
	if err != nil {
		t.Fatal(err)
	}
	check(t, *got.Limits[0].High, 3)
	check(t, got.Limits[1].High == nil, true)
	check(t, got.Names["c"], 4)
	var text string
	decodeParameters(`{}`, reflect.ValueOf(&text).Elem())
	check(t, text, "{}")
}
