-- Runs for ever in Lua alone: no call of C ever makes the interpreter store where it is. Says what calls `inner`, as
-- debug.getinfo has it: `truth busy running FILE:LINE:DEFINED;...`, the innermost first.
local is_told = false

local function tell()
    local stack = {}
    for level = 3, 5 do
        local info = debug.getinfo(level, "Sl")
        local file = info.short_src:match("[^/]*$")
        stack[#stack + 1] = ("%s:%d:%d"):format(file, info.currentline, info.linedefined)
    end
    host.say("truth busy running " .. table.concat(stack, ";") .. "\n")
    host.ready()
end

local function inner(n)
    local s = 0
    for i = 1, n do
        s = s + i % 7
    end
    if not is_told then
        is_told = true
        tell()
    end
    return s
end

local function middle(n)
    local s = inner(n)
    return s
end

local function outer(n)
    local s = middle(n)
    return s
end

local s = 0
while s >= 0 do
    s = s + outer(1000000) * 0
end
return s
