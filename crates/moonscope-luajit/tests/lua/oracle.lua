-- Prints what LuaJIT knows of its own functions, with their addresses, and stays alive to be read.
--
-- usage: luajit oracle.lua FILE...     the functions of these files are looked at, not run
--
-- Lines of output, words separated by one space, text in hexadecimal:
--   proto ADDRESS FIRST LAST PARAMS VARARG BYTECODES CHUNKNAME LINE,LINE,...  a line for each instruction
--   short ADDRESS SHORT_SRC                                    debug.getinfo of the chunk with this prototype
--   string ADDRESS TEXT
--   ffid NUMBER NAME                                           jit.vmdef.ffnames
--   opcodes NAMES                                              jit.vmdef.bcnames
--   thread ADDRESS                                             a coroutine
--   call CALLER POSITION NAMEWHAT NAME                         debug.getinfo of the called function
--   ready
-- Then it reads commands: "collect" frees the chunks of before and loads others, printed as above.

local util, vmdef = require("jit.util"), require("jit.vmdef")

local function hex(text)
  return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function address(object)
  return ("%p"):format(object)
end

local function each_prototype(of, visit)
  visit(of)
  local info = util.funcinfo(of)
  for n = -1, -info.gcconsts, -1 do
    local constant = util.funck(of, n)
    if type(constant) == "proto" then each_prototype(constant, visit) end
  end
end

local function describe(of)
  each_prototype(of, function(it)
    local info = util.funcinfo(it)
    local lines = {}
    for pc = 0, info.bytecodes - 1 do
      lines[#lines + 1] = util.funcinfo(it, pc).currentline or "-"
    end
    print("proto", address(info.proto), info.linedefined, info.lastlinedefined, info.params,
      info.isvararg and 1 or 0, info.bytecodes, "x" .. hex(info.source), table.concat(lines, ","))
  end)
  print("short", address(util.funcinfo(of).proto), "x" .. hex(debug.getinfo(of, "S").short_src))
end

local real_print = print
function print(...)
  local words = { ... }
  for i = 1, #words do words[i] = tostring(words[i]) end
  io.write(table.concat(words, " "), "\n")
end

-- Chunks with names of all kinds and lengths, some without lines.
local function generate(seed)
  local chunks = {}
  local body = "local a, b = ...\nlocal function f" .. seed .. "(x) return x, a, b end\nreturn f" .. seed
  for length = 0, 130, 3 do
    local name = ("n"):rep(length)
    for _, prefix in ipairs { "@", "=", "", "@/some/where/", "=content_by_lua(", "local x = 1\n", "\27text" } do
      chunks[#chunks + 1] = assert(loadstring(body .. (" "):rep(seed), prefix .. name))
    end
  end
  chunks[#chunks + 1] = assert(loadstring(string.dump(chunks[1], true), "=stripped"))
  chunks[#chunks + 1] = assert(loadstring(string.dump(chunks[1], false), "=not stripped"))
  chunks[#chunks + 1] = assert(loadstring(string.dump(chunks[1], true), "@/stripped/file.lua"))
  -- More lines than one and two bytes can count.
  chunks[#chunks + 1] = assert(loadstring("return 1," .. ("\n"):rep(300) .. "f()", "@lines2"))
  chunks[#chunks + 1] = assert(loadstring("return 1," .. ("\n"):rep(70000) .. "f()", "@lines4"))
  chunks[#chunks + 1] = assert(loadstring("local x\n" .. ("x = f(x)\n"):rep(40000), "@many"))
  for _, chunk in ipairs(chunks) do describe(chunk) end
  return chunks
end

-- All of the library, as far as this LuaJIT has it.
for _, module in ipairs { "ffi", "string.buffer", "table.new", "table.clear", "table.clone", "table.isarray", "table.nkeys",
  "table.isempty", "jit.profile", "thread.exdata", "thread.exdata2" } do
  pcall(require, module)
end

keep = {}
for _, file in ipairs(arg) do
  local chunk, message = loadfile(file)
  if chunk then
    keep[#keep + 1] = chunk
    describe(chunk)
  else
    io.stderr:write("oracle: ", message, "\n")
  end
end
for _, name in ipairs { "string", "table", "math" } do
  -- The library's functions that are bytecode.
  for _, f in pairs(_G[name]) do
    local info = type(f) == "function" and util.funcinfo(f) or {}
    if info.proto then describe(f) end
  end
end
generated = generate(1)

strings = {}
for length = 1, 300 do
  local text = ("s"):rep(length - 1) .. string.char(length % 256)
  strings[length] = text
  print("string", address(text), "x" .. hex(text))
end

for number = 2, 300 do
  if vmdef.ffnames[number] then print("ffid", number, vmdef.ffnames[number]) end
end
print("opcodes", "x" .. hex(vmdef.bcnames))
thread = coroutine.create(print)
print("thread", address(thread))

-- Calls whose instruction is the only one on its line that can call.
local function instruction(of, line)
  local calls, operators = {}, {}
  for pc = 1, util.funcinfo(of).bytecodes - 1 do
    if util.funcinfo(of, pc).currentline == line then
      local ins, mode = util.funcbc(of, pc)
      local name = vmdef.bcnames:sub(ins % 256 * 6 + 1, ins % 256 * 6 + 6):gsub(" ", "")
      if name:find("^CALL") or name:find("^ITER[CN]") then
        calls[#calls + 1] = pc
      elseif name:find("^ADD") or name:find("^TGET") or name:find("^TSET") or name:find("^CAT") or name:find("^UNM")
        or name:find("^IS[LGEN][TQE]") then
        operators[#operators + 1] = pc
      end
    end
  end
  local found = #calls > 0 and calls or operators
  assert(#found == 1, "line " .. line .. " has " .. #found .. " candidates")
  return found[1]
end

local function probe()
  local here, caller = debug.getinfo(2, "n"), debug.getinfo(3, "fl")
  local pc = instruction(caller.func, caller.currentline)
  print("call", address(util.funcinfo(caller.func).proto), pc, "x" .. here.namewhat, "x" .. hex(here.name or ""))
  return 1
end
local function answer() probe() return nil end
function a_global() probe() return 1 end
local object = { field = a_global, nested = { deeper = a_global }, method = a_global, ["not a name"] = a_global }
setmetatable(object, {
  __add = a_global, __concat = a_global, __unm = a_global, __eq = a_global, __lt = a_global, __le = a_global,
  __call = a_global, __index = function() probe() return a_global end, __newindex = function() probe() end,
})
local other = setmetatable({}, getmetatable(object))
local upvalues = {}
for i = 1, 50 do upvalues[i] = a_global end
function calls(parameter)
  local a_local = a_global
  local copied = a_local
  a_global()
  a_local()
  copied()
  parameter()
  answer()
  object.field()
  object.nested.deeper()
  object:method()
  object["not a name"]()
  do
    local inner, second = a_global, a_global
    second()
    inner()
  end
  for _ = 1, 1 do
    a_local()
  end
  for _, v in ipairs { a_global } do
    v()
  end
  for _ in answer do
  end
  object()
  local x = object + other
  x = object .. other
  x = -object
  x = object == other
  x = object < other
  x = object <= other
  x = object.unknown
  object.new = 1
  x = upvalues[3]()
  ;(a_global)();
  (function() probe() return 1 end)()
  parameter(a_local, copied)
  x = { a_global() }
  x = a_global(a_local)
  return 1
end
calls(a_global)
-- Names of variables far down a long function: numbers that take two bytes and three.
long = assert(loadstring("local f = ...\nlocal x\n" .. ("x = 1\n"):rep(20000) .. "local late = f\nlate()\nlocal z = 1\nf()\n"))
long(a_global)

print("ready")
io.flush()
for command in io.lines() do
  if command == "collect" then
    generated = nil
    collectgarbage()
    collectgarbage()
    round = (round or 1) + 1
    generated = generate(round)
    print("ready")
    io.flush()
  end
end
