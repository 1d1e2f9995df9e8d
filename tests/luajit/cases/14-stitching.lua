-- Loops with builtins that the compiler cannot record: it ends the trace before the call and stitches another one on.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local text = ("a,b"):rep(200)

local function by_gsub(deadline)
    repeat
        local x = sink
        for i = 1, 20 do
            local _, n = string.gsub(text, ",", ";") -- @gsub
            x = (x + n * i) % 1021
        end
        sink = x
    until clock() >= deadline
end

local function by_frexp(deadline)
    repeat
        local x = sink
        for i = 1, 200 do
            local m, e = math.frexp(x + i) -- @frexp
            x = (m * 8 + e + x) % 1021
        end
        sink = x
    until clock() >= deadline
end

-- the call in a function of its own, which the trace has inlined
local function split(x)
    local _, n = string.gsub(text, ",", ";") -- @inner_gsub
    return n + x
end
local function by_call(deadline)
    repeat
        local x = sink
        for _ = 1, 20 do
            x = split(x) % 1021 -- @split
        end
        sink = x
    until clock() >= deadline
end

case.ready()
while case.running() do
    by_gsub(case.part(0.4)) -- @start
    case.account("by_gsub")
    by_frexp(case.part(0.3)) -- @start
    case.account("by_frexp")
    by_call(case.part(0.3)) -- @start
    case.account("by_call")
end
case.finish()
