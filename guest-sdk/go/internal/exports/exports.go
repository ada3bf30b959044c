// Package exports holds what the packages of the exports share. The generated code wants one package for each
// export, named as it names them: they are in the folders here, written by hand, and hand on to package callbacks.
package exports

import (
	"strings"

	wit "go.bytecodealliance.org/pkg/wit/types"
)

// Text makes a text that can be handed over: one that is no UTF-8 traps at the border, without a word.
func Text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// Result is the answer of a callback.
func Result(err error) wit.Result[wit.Unit, string] {
	if err != nil {
		return wit.Err[wit.Unit, string](Text(err.Error()))
	}
	return wit.Ok[wit.Unit, string](wit.Unit{})
}
