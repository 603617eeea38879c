package archive

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// platformELF maps a platform key to the ELF header of its programs.
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

// IsELF reports whether f begins with an ELF header. It does not move f's offset.
func IsELF(f *os.File) bool {
	_, ok := readIdent(f)
	return ok
}

// CheckArch returns an error if f is an ELF file whose machine, word size or byte order
// is not the platform's. Other files (scripts, units) pass. It reads only the first 20
// bytes, because debug/elf would parse the tables of a possibly hostile file. It does
// not move f's offset.
func CheckArch(f *os.File, platform string) error {
	head, ok := readIdent(f)
	if !ok {
		return nil
	}
	want, ok := platformELF[platform]
	if !ok {
		return fmt.Errorf("cannot check a program for %s: the platform is unknown", platform)
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

// readIdent returns the first 20 bytes of f, and whether they begin an ELF file.
func readIdent(f *os.File) (head []byte, ok bool) {
	head = make([]byte, 20)
	n, _ := f.ReadAt(head, 0) // n is smaller if the file is
	head = head[:n]
	return head, n >= elf.EI_NIDENT && string(head[:len(elf.ELFMAG)]) == elf.ELFMAG
}

// machineName returns "aarch64" for EM_AARCH64, and "machine 65244" for a machine that
// debug/elf does not know.
func machineName(m elf.Machine) string {
	name, known := strings.CutPrefix(m.String(), "EM_")
	if !known || strings.Contains(name, "+") { // unknown ones may be a known name and an offset
		return fmt.Sprintf("machine %d", m)
	}
	return strings.ToLower(name)
}
