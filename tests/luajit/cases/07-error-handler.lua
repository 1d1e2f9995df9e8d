-- An xpcall handler works while the frames of the error are still there: error(), a failing operation, a call of nil.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function report(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local deadline
local function handler(message)
    report(deadline) -- @report
    return message
end

local nothing
local function by_error()
    error("known") -- @error
end
local function by_operation()
    return 1 + (nothing.field or 0) -- @operation
end
local function by_call()
    local x = nothing() -- @call
    return x
end

local function protect(f)
    local ok = xpcall(f, handler) -- @xpcall
    return ok
end

case.ready()
while case.running() do
    deadline = case.part(0.5)
    protect(by_error) -- @start
    case.account("by_error")
    deadline = case.part(0.3)
    protect(by_operation) -- @start
    case.account("by_operation")
    deadline = case.part(0.2)
    protect(by_call) -- @start
    case.account("by_call")
end
case.finish()
