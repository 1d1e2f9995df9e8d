-- A VM whose main coroutine blocks in C, at once: for several VMs in several threads.
local function blocked(seconds)
    host.sleep(seconds)
    return seconds
end
host.ready()
blocked(tonumber(arg[1]) or 60)
