-- Needs: host. C code that nothing describes, as a regular expression compiler makes it, called from Lua.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock
local ffi = require "ffi"

ffi.cdef "void ffi_nocfi(void);"

local sink = 0
local function burn(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local function matcher(deadline)
    host.nocfi(deadline) -- @nocfi
    return deadline
end

local function route(deadline)
    matcher(deadline) -- @matcher
    return deadline
end

-- The comparison could leave the trace, so that the compiler notes the line (a snapshot).
local function match(x)
    if x > 1e9 then return 0 end ffi.C.ffi_nocfi() -- @ffi_nocfi
    return x + 1
end

-- Compiled, this is a trace that calls it, with `match` inlined.
local function through_ffi(deadline)
    repeat
        local x = sink
        for _ = 1, 20 do
            x = match(x) -- @match
        end
        sink = x % 1021
    until clock() >= deadline
end

case.ready()
while case.running() do
    route(case.part(0.4)) -- @start
    case.account("route")
    through_ffi(case.part(0.3)) -- @through_ffi
    case.account("match")
    burn(case.part(0.3)) -- @burn
    case.account("burn")
end
case.finish()
