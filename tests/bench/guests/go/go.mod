module guests

go 1.25

require watchfire/rule v0.1.0

require go.bytecodealliance.org/pkg v0.4.0 // indirect

replace (
	go.bytecodealliance.org/pkg => ../../../../guest-sdk/go/third_party/go.bytecodealliance.org/pkg
	watchfire/rule => ../../../../guest-sdk/go
)
