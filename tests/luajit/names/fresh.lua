-- Compiled code that is always new and waits all the time: each stack of it is met when its trace is microseconds old.
--
--   host fresh.lua SECONDS
--
-- Nothing can be inlined into the loop, and its trace lives for as long as 32 others.
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned);"

local source = [[
local C = ...
return function()
    local sum = 0
    for _ = 1, 200 do
        sum = sum + %d
        C.usleep(50)
    end
    return sum
end]]

local kept = {}
local deadline = os.time() + tonumber(arg[1])
local number = 0
io.write "ready\n"; io.flush()
while os.time() < deadline do
    number = number + 1
    local loop = assert(loadstring(source:format(number), "@loop.lua"))(ffi.C)
    kept[number % 32] = loop
    loop()
end
