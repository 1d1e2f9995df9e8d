-- Operations that the interpreter does in helpers of its own: math.floor, %, ^, string functions.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local floor, ceil = math.floor, math.ceil

local function by_floor(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = floor(x + i * 0.7) - ceil(x * 0.3) end
        sink = x % 1021
    until clock() >= deadline
end

local function by_modulo(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x * 1.5 + i) % 1021.5 end
        sink = x
    until clock() >= deadline
end

local function by_power(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i) ^ 0.5 end
        sink = x
    until clock() >= deadline
end

local function by_string(deadline)
    repeat
        local x = 0
        for i = 1, 300 do
            local s = string.char(65 + i % 26) .. i
            x = x + string.byte(s) + #string.sub(s, 2) + #string.rep(s, 3) + #string.upper(s)
        end
        sink = x % 1021
    until clock() >= deadline
end

case.ready()
while case.running() do
    by_floor(case.part(0.3)) -- @start
    case.account("by_floor")
    by_modulo(case.part(0.3)) -- @start
    case.account("by_modulo")
    by_power(case.part(0.1)) -- @start
    case.account("by_power")
    by_string(case.part(0.3)) -- @start
    case.account("by_string")
end
case.finish()
