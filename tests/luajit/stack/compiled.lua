-- Sleeps in a system call that compiled code makes through the FFI, again and again.
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned useconds);"
local C = ffi.C

local function nap(n)
    C.usleep(n)
    return n + 1
end

local function naps(count)
    local sum = 0
    for i = 1, count do
        sum = sum + nap(20000)
    end
    return sum
end

-- compiled before it is ready
for _ = 1, 3 do
    local old = C.usleep(1)
end
host.ready()
local last
repeat last = naps(100) until os.time() == 0
return last
