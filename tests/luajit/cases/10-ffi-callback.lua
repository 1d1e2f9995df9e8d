-- The C library's qsort, called through the FFI, calls back into Lua. Not compiled: a callback from a trace is an error.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock
local ffi = require "ffi"

ffi.cdef "void qsort(void *base, size_t count, size_t size, int (*compare)(const int *, const int *));"

local sink = 0
local function burn()
    local x = sink
    for i = 1, 1000 do x = (x + i * 3) % 1021 end
    sink = x
end

local function compare(a, b)
    burn() -- @compare
    return a[0] - b[0]
end

local callback = ffi.cast("int (*)(const int *, const int *)", compare)
local values = ffi.new("int[16]")

local function sort(deadline)
    repeat
        for i = 0, 15 do values[i] = (i * 7) % 16 end
        ffi.C.qsort(values, 16, 4, callback) -- @qsort
    until clock() >= deadline
end
jit.off(sort)

case.ready()
while case.running() do
    sort(case.part(1)) -- @start
    case.account("sort")
end
case.finish()
