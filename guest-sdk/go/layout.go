package rule

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"
)

// layout is how a struct lies in a blob: fields in the order declared, little-endian, without gaps. It is found by
// reflection once; what is done for each device is a list of copies.
type layout struct {
	size   int
	copies []piece
}

// piece is a range of bytes that is the same in memory and in the blob, or a flag.
type piece struct {
	memory, blob, length int
	flag                 bool
}

// layoutOf is the layout of a type.
func layoutOf(of reflect.Type) (*layout, error) {
	own := &layout{}
	if of.Kind() != reflect.Struct {
		return own, fmt.Errorf("state has to be a struct, not %s", of)
	}
	one := uint16(1)
	if *(*byte)(unsafe.Pointer(&one)) != 1 {
		// Blobs are little-endian and memory is copied into them; WebAssembly is, and so is what rules are tested on.
		return own, errors.New("state on a big-endian machine")
	}
	err := own.add(of, 0, of.Name())
	return own, err
}

func (own *layout) add(of reflect.Type, at int, path string) error {
	switch of.Kind() {
	case reflect.Float64, reflect.Int64:
		own.append(piece{memory: at, blob: own.size, length: 8})
	case reflect.Bool:
		own.append(piece{memory: at, blob: own.size, length: 1, flag: true})
	case reflect.Array:
		for i := range of.Len() {
			if err := own.add(of.Elem(), at+i*int(of.Elem().Size()), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range of.NumField() {
			field := of.Field(i)
			if err := own.add(field.Type, at+int(field.Offset), path+"."+field.Name); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%s: %s cannot be state: what can is float64, int64, bool, and arrays and structs of these",
			path, of)
	}
	return nil
}

func (own *layout) append(next piece) {
	own.size += next.length
	if last := len(own.copies) - 1; last >= 0 {
		before := &own.copies[last]
		together := before.memory+before.length == next.memory && before.blob+before.length == next.blob
		if together && before.flag == next.flag {
			before.length += next.length
			return
		}
	}
	own.copies = append(own.copies, next)
}

func memory(of unsafe.Pointer, at, length int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(of, at)), length)
}

// write appends the blob of a state.
func (own *layout) write(blob []byte, state unsafe.Pointer) []byte {
	for _, piece := range own.copies {
		blob = append(blob, memory(state, piece.memory, piece.length)...)
	}
	return blob
}

// read sets a state from a blob of the size of the layout.
func (own *layout) read(blob []byte, state unsafe.Pointer) {
	for _, piece := range own.copies {
		from := blob[piece.blob : piece.blob+piece.length]
		to := memory(state, piece.memory, piece.length)
		if !piece.flag {
			copy(to, from)
			continue
		}
		// A bool that is neither 0 nor 1 is none.
		for i, flag := range from {
			to[i] = 0
			if flag != 0 {
				to[i] = 1
			}
		}
	}
}

func allZero(bytes []byte) bool {
	for _, one := range bytes {
		if one != 0 {
			return false
		}
	}
	return true
}

// Encode is the blob of a state, for [Manifest.Migrate]. S is a struct of float64, int64, bool, and arrays and structs of
// these, so the helpers of this package too.
func Encode[S any](state S) []byte {
	own, err := layoutOf(reflect.TypeFor[S]())
	if err != nil {
		panic(err.Error())
	}
	return own.write(make([]byte, 0, own.size), unsafe.Pointer(&state))
}

// Decode is the state of a blob, for [Manifest.Migrate]: fields in the order declared, little-endian, without gaps; a flag
// is one byte. It is false for a blob of another size.
func Decode[S any](blob []byte) (state S, ok bool) {
	own, err := layoutOf(reflect.TypeFor[S]())
	if err != nil {
		panic(err.Error())
	}
	if len(blob) != own.size {
		return state, false
	}
	own.read(blob, unsafe.Pointer(&state))
	return state, true
}
