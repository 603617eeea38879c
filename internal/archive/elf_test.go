package archive

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// header returns the beginning of an ELF file.
func header(class elf.Class, order binary.ByteOrder, machine elf.Machine) []byte {
	b := make([]byte, 64)
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS] = byte(class)
	b[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	if order == binary.BigEndian {
		b[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	order.PutUint16(b[16:], uint16(elf.ET_EXEC))
	order.PutUint16(b[18:], uint16(machine))
	return b
}

func TestCheckArch(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	amd64 := header(elf.ELFCLASS64, le, elf.EM_X86_64)
	for _, tt := range []struct {
		name, platform string
		file           []byte
		elf            bool
		err            string
	}{
		{"amd64", "linux-amd64", amd64, true, ""},
		{"arm64", "linux-arm64", header(elf.ELFCLASS64, le, elf.EM_AARCH64), true, ""},
		{"armv7", "linux-armv7", header(elf.ELFCLASS32, le, elf.EM_ARM), true, ""},
		{"armv6", "linux-armv6", header(elf.ELFCLASS32, le, elf.EM_ARM), true, ""},
		{"386", "linux-386", header(elf.ELFCLASS32, le, elf.EM_386), true, ""},
		{"s390x", "linux-s390x", header(elf.ELFCLASS64, be, elf.EM_S390), true, ""},
		{"script", "linux-amd64", []byte("#!/bin/sh\nexit 0\n"), false, ""},
		{"empty", "linux-amd64", nil, false, ""},
		{"magic alone", "linux-amd64", []byte(elf.ELFMAG), false, ""},
		{"arm64 for amd64", "linux-amd64", header(elf.ELFCLASS64, le, elf.EM_AARCH64), true, "built for aarch64, this machine is linux-amd64"},
		{"amd64 for arm64", "linux-arm64", amd64, true, "built for x86_64, this machine is linux-arm64"},
		{"386 for amd64", "linux-amd64", header(elf.ELFCLASS32, le, elf.EM_386), true, "built for 386, this machine is linux-amd64"},
		{"x32 for amd64", "linux-amd64", header(elf.ELFCLASS32, le, elf.EM_X86_64), true, "built for another word size or byte order of x86_64, this machine is linux-amd64"},
		{"big-endian arm64", "linux-arm64", header(elf.ELFCLASS64, be, elf.EM_AARCH64), true, "built for another word size or byte order of aarch64, this machine is linux-arm64"},
		{"no such machine", "linux-amd64", header(elf.ELFCLASS64, le, 0xfedc), true, "built for machine 65244, this machine is linux-amd64"},
		{"header cut short", "linux-amd64", amd64[:18], true, "it is an ELF file without a header"},
		{"unknown platform", "plan9-amd64", amd64, true, "cannot check a program for plan9-amd64: the platform is unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got := IsELF(f); got != tt.elf {
				t.Errorf("IsELF: %v", got)
			}
			err = CheckArch(f, tt.platform)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || err.Error() != tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			if at, _ := f.Seek(0, 1); at != 0 {
				t.Errorf("the offset moved to %d", at)
			}
		})
	}
}

// TestCheckArchOfThisProgram compares the table with a program of the Go toolchain.
func TestCheckArchOfThisProgram(t *testing.T) {
	if runtime.GOARCH == "arm" {
		t.Skip("Go's arm does not distinguish v6 from v7")
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := CheckArch(f, runtime.GOOS+"-"+runtime.GOARCH); err != nil {
		t.Error(err)
	}
}
