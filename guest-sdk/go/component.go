//go:build wasip1

package rule

// The exports of the component, which call what this package puts into package callbacks.
import _ "watchfire/rule/internal/exports/wit_exports"
