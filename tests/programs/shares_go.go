// Functions with 50, 30 and 20 % of the CPU time of one locked thread, and a goroutine beside them
// (method and output: common.h and shares.c).
//
// True stacks:
//
//	runtime.goexit; runtime.main; main.main; main.oneRound; main.share50 (share30, share20)
//	runtime.goexit; main.beside; main.besideWork        at most a tenth of the time of the above
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	clockThreadCPU = 3
	prSetPdeathsig = 1
)

func threadNs() int64 {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPU, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

var sink uint64

func work(x uint64) uint64 {
	for i := 0; i < 8000; i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

//go:noinline
func share50(end int64) {
	for threadNs() < end {
		sink = work(sink | 1)
	}
}

//go:noinline
func share30(end int64) {
	for threadNs() < end {
		sink = work(sink | 1)
	}
}

//go:noinline
func share20(end int64) {
	for threadNs() < end {
		sink = work(sink | 1)
	}
}

var state uint64 = 0x9e3779b97f4a7c15
var used [3]int64

//go:noinline
func oneRound() {
	state ^= state << 13
	state ^= state >> 7
	state ^= state << 17
	length := int64(7000000 + state%6000000)
	begin := threadNs()
	share50(begin + length*5/10)
	a := threadNs()
	share30(begin + length*8/10)
	b := threadNs()
	share20(begin + length)
	c := threadNs()
	used[0] += a - begin
	used[1] += b - a
	used[2] += c - b
}

var besideSink uint64

//go:noinline
func besideWork() {
	for i := 0; i < 20; i++ {
		besideSink = work(besideSink | 1)
	}
}

//go:noinline
func beside() {
	for {
		besideWork()
		time.Sleep(10 * time.Millisecond)
	}
}

func main() {
	seconds := 10.0
	if len(os.Args) > 1 {
		seconds, _ = strconv.ParseFloat(os.Args[1], 64)
	}
	// The death signal and the CPU clock belong to a thread.
	runtime.LockOSThread()
	if os.Getenv("KEEP") == "" {
		parent := os.Getppid()
		syscall.RawSyscall(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0)
		if os.Getppid() != parent {
			os.Exit(1)
		}
	}
	go beside()
	fmt.Println("ready")
	begin := threadNs()
	end := time.Now().Add(time.Duration(seconds * 1e9))
	for time.Now().Before(end) {
		oneRound()
	}
	total := float64(used[0] + used[1] + used[2])
	for i, name := range []string{"main.share50", "main.share30", "main.share20"} {
		fmt.Printf("truth %s %.4f %.4f\n", name, float64(used[i])/total, float64(used[i])/1e9)
	}
	fmt.Printf("cpu %.4f\n", float64(threadNs()-begin)/1e9)
}
