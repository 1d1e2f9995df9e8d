-- Coroutines that C resumes and that wait by a C function and by coroutine.yield; and others that Lua resumes, whose yields
-- nobody waits for.
--
-- Prints `ready`, waits for a line, runs, prints how long it waited by either, by the clock, and `done`.

local function nested(depth)
    if depth > 0 then
        return (nested(depth - 1))
    end
    host.wait(0.02) -- @c
    return 1
end

local function yields()
    for _ = 1, 50 do coroutine.yield(1) end -- @inner
end

local function body(times)
    for _ = 1, times do
        nested(3)
        coroutine.yield(0.03) -- @builtin
        local inner = coroutine.wrap(yields)
        for _ = 1, 50 do inner() end
    end
end

io.write "ready\n"
io.flush()
io.read()

local by_c, by_builtin = 0, 0
for _ = 1, 4 do
    local c, builtin = host.schedule(body, 5)
    by_c, by_builtin = by_c + c, by_builtin + builtin
    -- what ended makes room for others at the same address
    collectgarbage()
end
io.write(("truth c %.6f\ntruth builtin %.6f\ndone\n"):format(by_c, by_builtin))
io.flush()
io.read()
