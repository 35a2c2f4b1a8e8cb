package process

import (
	"os"
	"testing"
)

func BenchmarkIdentify(b *testing.B) {
	p, err := Open(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for b.Loop() {
		if _, err := p.Identify(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		p, err := Open(os.Getpid())
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}
