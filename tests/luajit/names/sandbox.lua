-- A VM whose main thread has no globals, as tslua.so of Traffic Server leaves its VMs: what is in them is reached through locals.
--
--   host sandbox.lua SECONDS
local rep, time, deadline = string.rep, os.time, os.time() + tonumber(arg[1])
local io, pcall = io, pcall

local function work()
    return #rep("moon", 20000)
end

setfenv(0, {})
assert(getfenv(0).string == nil)
io.write "ready\n"; io.flush()
while time() < deadline do
    for _ = 1, 1000 do pcall(work) end
end
