-- Work inside metamethods; the caller's line is that of the operation.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local deadline
local function work()
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
    return 1
end

local function mm_index(_, key)
    work() -- @w_index
    return key
end
local function mm_newindex()
    work() -- @w_newindex
end
local function mm_add(a)
    work() -- @w_add
    return a
end
local function mm_lt()
    work() -- @w_lt
    return true
end
local function mm_eq()
    work() -- @w_eq
    return true
end
local function mm_concat(a)
    work() -- @w_concat
    return a
end
local function mm_call(self)
    work() -- @w_call
    return self
end
local function mm_tostring()
    work() -- @w_tostring
    return "object"
end
local function mm_unm(a)
    work() -- @w_unm
    return a
end
local function mm_gc()
    local x = sink
    for i = 1, 2000 do x = (x + i * 7) % 1021 end
    sink = x
end

local meta = {
    __index = mm_index, __newindex = mm_newindex, __add = mm_add, __lt = mm_lt, __eq = mm_eq, __concat = mm_concat,
    __call = mm_call, __tostring = mm_tostring, __unm = mm_unm,
}
local a, b = setmetatable({}, meta), setmetatable({}, meta)

local function use_index()
    local x = a.missing -- @index
    return x
end
local function use_newindex()
    a.missing = 1 -- @newindex
end
local function use_add()
    local x = a + b -- @add
    return x
end
local function use_lt()
    local x = a < b -- @lt
    return x
end
local function use_eq()
    local x = a == b -- @eq
    return x
end
local function use_concat()
    local x = "x" .. "y" .. a -- @concat
    return x
end
local function use_call()
    local x = a() -- @call
    return x
end
local function use_tostring()
    local x = tostring(a) -- @tostring
    return x
end
local function use_unm()
    local x = -a -- @unm
    return x
end
-- Garbage with a finalizer; it runs at some allocation, wherever that is.
local function use_gc()
    repeat
        for _ = 1, 5 do
            local proxy = newproxy(true)
            getmetatable(proxy).__gc = mm_gc
        end
        collectgarbage("step", 10) -- @gc
    until clock() >= deadline
end

case.ready()
while case.running() do
    deadline = case.part(0.1)
    use_index() -- @start
    case.account("use_index")
    deadline = case.part(0.1)
    use_newindex() -- @start
    case.account("use_newindex")
    deadline = case.part(0.1)
    use_add() -- @start
    case.account("use_add")
    deadline = case.part(0.1)
    use_lt() -- @start
    case.account("use_lt")
    deadline = case.part(0.1)
    use_eq() -- @start
    case.account("use_eq")
    deadline = case.part(0.1)
    use_concat() -- @start
    case.account("use_concat")
    deadline = case.part(0.1)
    use_call() -- @start
    case.account("use_call")
    deadline = case.part(0.1)
    use_tostring() -- @start
    case.account("use_tostring")
    deadline = case.part(0.1)
    use_unm() -- @start
    case.account("use_unm")
    deadline = case.part(0.1)
    use_gc() -- @start
    case.account("use_gc")
end
case.finish()
