-- Ways out: a trace that ends at a builtin which is never compiled (the interpreter goes on, and another trace takes up the
-- thread), iterators that are another object each time, errors that end a coroutine, builtins whose results overwrite
-- their own frame.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock
local fmod, modf, frexp = math.fmod, math.modf, math.frexp
local gmatch = string.gmatch
local create, resume, wrap, yield = coroutine.create, coroutine.resume, coroutine.wrap, coroutine.yield

local sink = 0

local function by_builtin(deadline)
    repeat
        local x = sink
        for i = 1, 300 do x = (x + fmod(i, 3) + modf(i / 3) + frexp(i)) % 1021 end -- @builtin
        sink = x
    until clock() >= deadline
end

local text = ("word "):rep(20)
local function by_words(deadline)
    repeat
        local n = 0
        for word in gmatch(text, "%a+") do n = n + #word end -- @words
        sink = n
    until clock() >= deadline
end

local function numbers()
    for i = 1, 20 do yield(i) end -- @yield
end
local function by_generator(deadline)
    repeat
        local n = 0
        for i in wrap(numbers) do n = n + i end -- @generator
        sink = n
    until clock() >= deadline
end

local function fails(level)
    if level == 0 then error("known") end -- @error
    fails(level - 1) -- @fails
    return level
end
local function by_failure(deadline)
    repeat
        for i = 1, 10 do
            resume(create(fails), 3) -- @resume
        end
    until clock() >= deadline
end

case.ready()
while case.running() do
    by_builtin(case.part(0.25)) -- @start
    case.account("by_builtin")
    by_words(case.part(0.25)) -- @start
    case.account("by_words")
    by_generator(case.part(0.25)) -- @start
    case.account("by_generator")
    by_failure(case.part(0.25)) -- @start
    case.account("by_failure")
end
case.finish()
