package rule

import (
	"testing"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/host"
)

// fixedHost answers with the same batch each time, and throws away what is handed over.
type fixedHost struct {
	*fakeHost
	handles []uint32
	stamps  []int64
	values  []float64
}

func (fixed *fixedHost) Rows() uint32 { return uint32(len(fixed.handles)) }
func (fixed *fixedHost) Columns() []host.Column {
	return []host.Column{{Metric: "x", Kind: host.Number}}
}
func (fixed *fixedHost) Devices() []uint32                  { return fixed.handles }
func (fixed *fixedHost) Times() []int64                     { return fixed.stamps }
func (fixed *fixedHost) Numbers(string) []float64           { return fixed.values }
func (fixed *fixedHost) Store(uint32, []uint32, host.Blobs) {}
func (fixed *fixedHost) Load(_ uint32, of []uint32) host.Blobs {
	return host.Blobs{Lengths: make([]uint32, len(of))}
}

func smooth(state *Ewma, x float64) { state.Update(x, 0.1) }

type smoothDevice struct{}

func (smoothDevice) OnReading(_ Device, reading *Reading, state *Ewma) error {
	if x, ok := reading.Number("x"); ok {
		smooth(state, x)
	}
	return nil
}

type smoothBatch struct{ states *Store[Ewma] }

func (own smoothBatch) OnBatch(batch *Batch) error {
	for row, x := range batch.Numbers("x") {
		if x == x {
			smooth(own.states.At(batch.Device(row)), x)
		}
	}
	return nil
}

// What a row costs, in batches of 1024 rows of 15 000 devices.
func benchmark(b *testing.B, start func(none) (Rule, Subscription, error)) {
	module.start = nil
	Register(Manifest{StateVersion: 1}, start)
	fixed := &fixedHost{fakeHost: &fakeHost{config: "{}"}}
	host.Native, instance = fixed, nil
	for row := range 1024 {
		fixed.handles = append(fixed.handles, uint32(row*7919%15000))
		fixed.stamps = append(fixed.stamps, int64(row))
		fixed.values = append(fixed.values, float64(row%17))
	}
	b.ReportAllocs()
	for range b.N {
		if err := callbacks.OnBatch(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/row")
}

func BenchmarkPerDevice(b *testing.B) {
	benchmark(b, func(none) (Rule, Subscription, error) { return PerDevice(smoothDevice{}), On("x"), nil })
}

func BenchmarkPerBatch(b *testing.B) {
	benchmark(b, func(none) (Rule, Subscription, error) { return PerBatch(smoothBatch{NewStore[Ewma](0)}), On("x"), nil })
}
