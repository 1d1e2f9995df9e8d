-- Time in the kernel: system calls from FFI code, compiled and not, page faults of Lua code itself, and sleep.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock
local ffi = require "ffi"

ffi.cdef [[
    int getppid(void);
    void *mmap(void *address, size_t length, int protection, int flags, int file, long offset);
    int madvise(void *address, size_t length, int advice);
    int usleep(unsigned microseconds);
]]

local sink = 0
local PAGE, PAGES = 4096, 64
local memory = ffi.cast("uint8_t *", ffi.C.mmap(nil, PAGE * PAGES, 3, 0x22, -1, 0)) -- anonymous, private

local function compiled_syscalls(deadline)
    repeat
        local x = 0
        for _ = 1, 100 do
            x = x + ffi.C.getppid() -- @compiled_syscall
        end
        sink = x
    until clock() >= deadline
end

local function interpreted_syscalls(deadline)
    repeat
        local x = 0
        for _ = 1, 100 do
            x = x + ffi.C.getppid() -- @interpreted_syscall
        end
        sink = x
    until clock() >= deadline
end
jit.off(interpreted_syscalls)

local function compiled_faults(deadline)
    repeat
        for i = 0, PAGES - 1 do
            memory[i * PAGE] = 1 -- @compiled_fault
        end
        ffi.C.madvise(memory, PAGE * PAGES, 4) -- @compiled_madvise
    until clock() >= deadline
end

local function interpreted_faults(deadline)
    repeat
        for i = 0, PAGES - 1 do
            memory[i * PAGE] = 1 -- @interpreted_fault
        end
        ffi.C.madvise(memory, PAGE * PAGES, 4) -- @interpreted_madvise
    until clock() >= deadline
end
jit.off(interpreted_faults)

-- no CPU time, but off-CPU time
local function blocked()
    ffi.C.usleep(2000) -- @usleep
end
jit.off(blocked)

case.ready()
while case.running() do
    compiled_syscalls(case.part(0.25)) -- @start
    case.account("compiled_syscalls")
    interpreted_syscalls(case.part(0.25)) -- @start
    case.account("interpreted_syscalls")
    compiled_faults(case.part(0.25)) -- @start
    case.account("compiled_faults")
    interpreted_faults(case.part(0.25)) -- @start
    case.account("interpreted_faults")
    blocked() -- @start
    case.account("blocked")
end
case.finish()
