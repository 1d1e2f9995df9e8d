-- A coroutine inside a coroutine, one entered by coroutine.wrap and one by coroutine.resume.
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

local function inner_body(parent, deadline)
    case.resumed_by(parent)
    while true do
        leaf(deadline) -- @inner_leaf
        deadline = coroutine.yield() -- @inner_yield
    end
end

local function outer_body(deadline)
    case.resumed_by(nil)
    local this = coroutine.running()
    local inner = coroutine.wrap(inner_body)
    inner(this, deadline) -- @enter
    while true do
        deadline = coroutine.yield()
        leaf(deadline - 0.004) -- @outer_leaf
        inner(deadline) -- @enter
    end
end

local function middle(outer, deadline)
    local ok, message = coroutine.resume(outer, deadline) -- @resume
    if not ok then error(message) end
end

local outer = coroutine.create(outer_body)
case.ready()
while case.running() do
    middle(outer, case.part(0.8)) -- @start
    case.account("middle")
    leaf(case.part(0.2)) -- @leaf
    case.account("main")
end
case.finish()
