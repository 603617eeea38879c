package state

import "fmt"

// UnskipHint says how the operator undoes the rejections of a target.
func UnskipHint(target string) string {
	return "machinemon-update unskip " + target + " tries it again"
}

// SettleHint says what the operator can do about a trial whose rollback failed.
func SettleHint(name string) string {
	return fmt.Sprintf("machinemon-update settle %s keep|back: keep what is installed now, or roll back once more", name)
}

// MainHint says how the operator makes trials possible of a unit that runs another program
// than the installed one.
func MainHint(name string) string {
	return `write main = "" below [health] in /etc/machinemon-update/targets.d/` + name + ".toml"
}
