module boiler-pressure

go 1.25

require watchfire/rule v0.1.0

require go.bytecodealliance.org/pkg v0.4.0 // indirect

replace (
	go.bytecodealliance.org/pkg => ../../third_party/go.bytecodealliance.org/pkg
	watchfire/rule => ../..
)
