-- The parser: loadstring of a long source, and require of a module, again and again.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local folder = arg[0]:match "^.*/" or ""
package.path = folder .. "?.lua"

local lines = {}
for i = 1, 500 do
    lines[i] = ("local function f%d(a, b) local t = { a, b, x = %d } return t.x + a * %d end"):format(i % 100, i, i)
end
local source = "do " .. table.concat(lines, " end do ") .. " end"

local function load_source(deadline)
    repeat
        local chunk = loadstring(source, "=long") -- @loadstring
        sink = chunk and 1 or error "does not compile"
    until clock() >= deadline
end

local function load_module(deadline)
    repeat
        package.loaded["19-module"] = nil
        local module = require "19-module" -- @require
        sink = module.answer
    until clock() >= deadline
end

case.ready()
while case.running() do
    load_source(case.part(0.5)) -- @start
    case.account("load_source")
    load_module(case.part(0.5)) -- @start
    case.account("load_module")
end
case.finish()
