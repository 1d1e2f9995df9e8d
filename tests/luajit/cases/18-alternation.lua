-- Needs: host. Lua calls C and C calls Lua, 50 times, by lua_call, lua_pcall, lua_cpcall and lua_resume in turn.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function leaf(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local by_call, by_pcall, by_cpcall, by_resume

local function descend(n, deadline)
    local next_step = ({ [0] = by_call, by_pcall, by_cpcall, by_resume })[n % 4]
    if n == 0 then
        host.mark("bottom") -- @mark
        leaf(deadline) -- @leaf
    else
        next_step(n, deadline) -- @next
    end
    return n
end

-- what lua_resume runs: the first thing it does is to say who resumed it
local function enter(parent, n, deadline)
    case.resumed_by(parent)
    descend(n, deadline) -- @enter
    return n
end

function by_call(n, deadline)
    host.call(descend, n - 1, deadline) -- @call
    return n
end
function by_pcall(n, deadline)
    host.pcall(descend, n - 1, deadline) -- @pcall
    return n
end
function by_cpcall(n, deadline)
    host.cpcall(descend, n - 1, deadline) -- @cpcall
    return n
end
function by_resume(n, deadline)
    host.resume(enter, coroutine.running(), n - 1, deadline) -- @resume
    return n
end

case.ready()
while case.running() do
    descend(50, case.part(1)) -- @start
    case.account("descend")
end
case.finish()
