package archive

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// platformELF says what a program for a platform has in its ELF header.
var platformELF = map[string]struct {
	machine elf.Machine
	class   elf.Class
	data    elf.Data
}{
	"linux-386":      {elf.EM_386, elf.ELFCLASS32, elf.ELFDATA2LSB},
	"linux-amd64":    {elf.EM_X86_64, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"linux-arm64":    {elf.EM_AARCH64, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"linux-armv5":    {elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB},
	"linux-armv6":    {elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB},
	"linux-armv7":    {elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB},
	"linux-loong64":  {elf.EM_LOONGARCH, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"linux-mips64le": {elf.EM_MIPS, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"linux-ppc64le":  {elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"linux-riscv64":  {elf.EM_RISCV, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"linux-s390x":    {elf.EM_S390, elf.ELFCLASS64, elf.ELFDATA2MSB},
}

// IsELF reports whether f begins as an ELF file does. It does not move f's offset.
func IsELF(f *os.File) bool {
	_, ok := ident(f)
	return ok
}

// CheckArch refuses a program for another machine: an ELF file whose machine,
// word size or byte order is not the platform's. Files that are not ELF
// (scripts, units) pass. Only the first 20 bytes are looked at, by hand:
// debug/elf would parse tables that a hostile file lays out. It does not move
// f's offset.
func CheckArch(f *os.File, platform string) error {
	head, ok := ident(f)
	if !ok {
		return nil
	}
	want, ok := platformELF[platform]
	if !ok {
		return fmt.Errorf("cannot tell what a program for %s looks like", platform)
	}
	class, data := elf.Class(head[elf.EI_CLASS]), elf.Data(head[elf.EI_DATA])
	var order binary.ByteOrder = binary.LittleEndian
	if data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	const machineAt = 18 // e_machine, after e_ident and e_type, in both word sizes
	if len(head) < machineAt+2 {
		return errors.New("it is an ELF file without a header")
	}
	machine := elf.Machine(order.Uint16(head[machineAt:]))
	switch {
	case machine != want.machine:
		return fmt.Errorf("built for %s, this machine is %s", machineName(machine), platform)
	case class != want.class || data != want.data:
		return fmt.Errorf("built for another word size or byte order of %s, this machine is %s", machineName(machine), platform)
	}
	return nil
}

// ident returns the beginning of an ELF file.
func ident(f *os.File) (head []byte, ok bool) {
	head = make([]byte, 20)
	n, _ := f.ReadAt(head, 0) // a short file is judged by what it has
	head = head[:n]
	return head, n >= elf.EI_NIDENT && string(head[:len(elf.ELFMAG)]) == elf.ELFMAG
}

// machineName is "aarch64" for EM_AARCH64, and "machine 65244" for what has no name.
func machineName(m elf.Machine) string {
	name, known := strings.CutPrefix(m.String(), "EM_")
	if !known || strings.Contains(name, "+") { // a number, or debug/elf's nearest name and an offset
		return fmt.Sprintf("machine %d", m)
	}
	return strings.ToLower(name)
}
