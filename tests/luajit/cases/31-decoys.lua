-- Hostile memory: copies of this VM's own state that look like VMs, with stacks that have no end or no place.
--
-- Each has a dispatch table, a main thread and a current one, and claims the C frame of the real one. What tells them
-- apart is that frame: it says whose it is. The work of the program is ordinary; its stacks have to be right, or refused,
-- and looking at it has to end.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock
local ffi = require "ffi"

ffi.cdef "void *mmap(void *address, size_t length, int protection, int flags, int file, long offset);"

local gc64 = ffi.abi "gc64"
-- Layout of lua_State in LuaJIT 2.1 (lj_obj.h); it is the same in all its releases.
local GLREF, BASE, TOP, MAXSTACK, STACK, CFRAME = 0x08, 0x10, 0x18, 0x20, 0x24, 0x30
local word, TYPE = "uint32_t *", 5
if gc64 then
    GLREF, BASE, TOP, MAXSTACK, STACK, CFRAME = 0x10, 0x20, 0x28, 0x30, 0x38, 0x50
    word, TYPE = "uint64_t *", 9
end
local WORD = gc64 and 8 or 4

local function at(address)
    return ffi.cast(word, address)
end
local function get(address)
    return tonumber(at(address)[0])
end

-- A coroutine knows the global state, and the main thread is right before that.
local thread = coroutine.create(function() end)
local global = get(tonumber(tostring(thread):match "0x(%x+)", 16) + GLREF)
local main_thread
for back = 0x40, 0x100, 8 do
    local candidate = global - back
    if get(candidate + GLREF) == global and ffi.cast("uint8_t *", candidate)[TYPE] == 6 then
        main_thread = candidate
        break
    end
end
assert(main_thread, "this LuaJIT has another layout")

-- What is copied: the main thread, the global state, the compiler's state and the dispatch table.
local SIZE, STACK_SIZE = 0x3000, 0x1000

local function copy()
    -- 0x62: private, anonymous, below 2 GiB (for 32-bit references)
    local place = ffi.C.mmap(nil, SIZE + STACK_SIZE, 3, 0x62, -1, 0)
    local base = tonumber(ffi.cast("uintptr_t", place))
    assert(base < 0x80000000, "no memory below 2 GiB")
    ffi.copy(place, ffi.cast("void *", main_thread), SIZE)
    local moved = { [main_thread] = base, [global] = base + (global - main_thread) }
    for offset = 0, SIZE - WORD, WORD do
        local target = moved[get(base + offset)]
        if target then
            at(base + offset)[0] = target
        end
    end
    return base
end

-- The first slot of the frame that a decoy says it runs.
local function set_stack(decoy, first_slot)
    local stack = decoy + SIZE
    at(decoy + STACK)[0] = stack
    at(decoy + MAXSTACK)[0] = stack + STACK_SIZE - 0x40
    at(decoy + BASE)[0] = first_slot
    at(decoy + TOP)[0] = first_slot + 0x20
end

local running = get(main_thread + BASE)
-- Writes a frame: a real function, and a link that leads `delta` bytes down.
local function set_frame(first_slot, delta)
    if gc64 then
        at(first_slot - 16)[0] = at(running - 16)[0]
        ffi.cast("int64_t *", first_slot - 8)[0] = delta + 1 -- called from C
    else
        at(first_slot - 8)[0] = at(running - 8)[0]
        ffi.cast("int32_t *", first_slot - 4)[0] = delta + 1
    end
end

local decoys = {}
local function new_decoy(change)
    local decoy = copy()
    ffi.cast("uint64_t *", decoy + CFRAME)[0] = ffi.cast("uint64_t *", main_thread + CFRAME)[0]
    change(decoy, decoy + SIZE + 0x400)
    decoys[#decoys + 1] = decoy
end

new_decoy(function(decoy, slot) -- a frame that is its own caller
    set_stack(decoy, slot)
    set_frame(slot, 0)
end)
new_decoy(function(decoy, slot) -- two frames that call each other
    set_stack(decoy, slot)
    set_frame(slot, 64)
    set_frame(slot - 64, -64)
end)
new_decoy(function(decoy) -- a base where nothing is mapped
    set_stack(decoy, 0x1000)
end)
new_decoy(function(decoy, slot) -- a base above the end of its stack
    set_stack(decoy, slot)
    at(decoy + MAXSTACK)[0] = decoy + SIZE + 0x100
    set_frame(slot, 0x7ffffff0)
end)
new_decoy(function(decoy, slot) -- a C frame in its own memory, which calls itself
    set_stack(decoy, slot)
    set_frame(slot, 0)
    local frame = decoy + SIZE + 0x800
    ffi.cast("uint64_t *", decoy + CFRAME)[0] = frame
    for offset = 0, 0x80, 8 do
        ffi.cast("uint64_t *", frame + offset)[0] = frame
    end
end)

local sink = 0
local function burn(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local function caller(deadline)
    burn(deadline) -- @burn
    return deadline
end

case.ready()
while case.running() do
    caller(case.part(0.7)) -- @start
    case.account("caller")
    burn(case.part(0.3)) -- @direct
    case.account("direct")
end
case.finish()
