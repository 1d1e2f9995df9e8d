-- What the requests of nginx.conf.in do: a known amount of CPU time, in functions that can be told apart.

local work = {}

local clock = os.clock
local sink = 0

-- CPU time of the worker, from now
function work.burn(seconds)
    local deadline = clock() + seconds
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

-- /coroutine: the scheduler of ngx_lua resumes coroutines itself, so natively neither lies on the other
local function co2_body()
    work.burn(0.002) -- @co2_burn
    coroutine.yield() -- @co2_yield
    work.burn(0.001) -- @co2_burn
end

local function co1_body()
    local co2 = coroutine.create(co2_body) -- @co1_create
    coroutine.resume(co2) -- @co1_resume
    work.burn(0.001) -- @co1_burn
    coroutine.resume(co2) -- @co1_resume
end

function work.coroutines()
    local co1 = coroutine.create(co1_body)
    coroutine.resume(co1) -- @resume
    work.burn(0.001) -- @coroutines_burn
end

-- /thread
local function thread_body(seconds)
    work.burn(seconds) -- @thread_burn
    ngx.sleep(0.001) -- @thread_sleep
    work.burn(seconds) -- @thread_burn
end

function work.threads()
    local first = ngx.thread.spawn(thread_body, 0.001) -- @spawn
    local second = ngx.thread.spawn(thread_body, 0.0005) -- @spawn
    ngx.thread.wait(first) -- @wait
    ngx.thread.wait(second) -- @wait
    work.burn(0.001) -- @threads_burn
end

-- /timer
local function timer_body(_, seconds)
    work.burn(seconds) -- @timer_burn
end

function work.timer()
    ngx.timer.at(0, timer_body, 0.002) -- @at
    work.burn(0.001) -- @timer_own_burn
end

-- /regex: most of it is in code that PCRE has compiled
local subject = ("aaaaaaaaab "):rep(200)

function work.regex()
    local deadline = clock() + 0.003
    repeat
        ngx.re.match(subject, [[(a+)+c|(\w+\s)+z]], "jo") -- @match
    until clock() >= deadline
end

return work
