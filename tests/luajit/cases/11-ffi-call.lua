-- A C function called through the FFI: from compiled code and from the interpreter.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock
local ffi = require "ffi"

ffi.cdef "size_t strlen(const char *s);"

local length = 65536
local text = ffi.new("char[?]", length + 1)
ffi.fill(text, length, 120)

local sink = 0
local function compiled(deadline)
    repeat
        local n = 0
        for _ = 1, 100 do
            n = n + tonumber(ffi.C.strlen(text)) -- @compiled_strlen
        end
        sink = n
    until clock() >= deadline
end

local function interpreted(deadline)
    repeat
        local n = 0
        for _ = 1, 100 do
            n = n + tonumber(ffi.C.strlen(text)) -- @interpreted_strlen
        end
        sink = n
    until clock() >= deadline
end
jit.off(interpreted)

case.ready()
while case.running() do
    compiled(case.part(0.5)) -- @start
    case.account("compiled")
    interpreted(case.part(0.5)) -- @start
    case.account("interpreted")
end
case.finish()
