package main

import (
	"encoding/binary"
	"os"
	"syscall"
)

// policyPath asks the machine's registry for what %ProgramData% is: a client's configuration could set the
// variable.
func policyPath() string {
	folder := `C:\ProgramData`
	var key syscall.Handle
	path, _ := syscall.UTF16PtrFromString(`SOFTWARE\Microsoft\Windows\CurrentVersion\Explorer\Shell Folders`)
	if syscall.RegOpenKeyEx(syscall.HKEY_LOCAL_MACHINE, path, 0, syscall.KEY_READ, &key) == nil {
		defer syscall.RegCloseKey(key)
		name, _ := syscall.UTF16PtrFromString("Common AppData")
		raw := make([]byte, 2*syscall.MAX_PATH)
		n, text := uint32(len(raw)), make([]uint16, syscall.MAX_PATH)
		if syscall.RegQueryValueEx(key, name, nil, nil, &raw[0], &n) == nil {
			binary.Decode(raw, binary.LittleEndian, text) // cannot fail: it is as long
			folder = syscall.UTF16ToString(text)
		}
	}
	return folder + `\mcp-redial\policy`
}

// administrators: the folder's own access list, which Go does not show, keeps users from writing there.
func administrators(os.FileInfo) bool { return true }
