module watchfire/rule

go 1.25

require go.bytecodealliance.org/pkg v0.4.0

// The runtime package of the generated bindings; see third_party/README.md. A project that uses this SDK repeats
// the line with the path as seen from there: a replacement counts in the main module only.
replace go.bytecodealliance.org/pkg => ./third_party/go.bytecodealliance.org/pkg
