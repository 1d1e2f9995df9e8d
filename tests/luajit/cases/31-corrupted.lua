-- Hostile memory: the thread's own lua_State, stack and C frame are wrong while it works in C.
--
-- There is no grammar: what a profiler can know of such a stack is up to it, and crates/moonscope/tests/root_lua_hostile.rs
-- says what it must not do. Functions that begin with with_ work like that; between them `sound` works as it should. Two
-- coroutines are suspended with stacks that have no end.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local ffi = require "ffi"

-- Layout of lua_State in LuaJIT 2.1 (lj_obj.h); it is the same in all its releases.
local WORD, TYPE, GLREF, BASE, MAXSTACK, STACK, CFRAME, LINK, FUNCTION = 4, 5, 0x08, 0x10, 0x20, 0x24, 0x30, -4, -8
if ffi.abi "gc64" then
    WORD, TYPE, GLREF, BASE, MAXSTACK, STACK, CFRAME, LINK, FUNCTION = 8, 9, 0x10, 0x20, 0x30, 0x38, 0x50, -8, -16
end

-- of the lua_State
local function state(offset, value, size, adds)
    return function(deadline)
        host.burn_over(deadline, -1, offset, value, size or WORD, adds or false)
        return deadline
    end
end
-- of the innermost Lua frame, that of host.burn_over itself
local function frame(offset, value)
    return function(deadline)
        host.burn_over(deadline, BASE, offset, value, WORD, false, WORD)
        return deadline
    end
end
-- of the VM's frame on the native stack (lj_frame.h)
local SAVE_L, SAVE_CFRAME, SAVE_NRES = 24, 32, 16
if WORD == 8 then
    SAVE_L, SAVE_NRES = 16, 8
end
local function cframe(offset, value, size)
    return function(deadline)
        host.burn_over(deadline, CFRAME, offset, value, size, false, 8)
        return deadline
    end
end

local ways = {
    with_base_nowhere = state(BASE, 0x1000),
    with_base_unaligned = state(BASE, 4, nil, true),
    with_base_above = state(BASE, 0x100000, nil, true),
    with_base_below = state(BASE, -0x1000, nil, true),
    with_no_end = state(MAXSTACK, 0),
    with_no_beginning = state(STACK, 0x7ffff000),
    with_other_global = state(GLREF, 1),
    with_other_type = state(TYPE, 8, 1),
    with_no_cframe = state(CFRAME, 0, 8),
    with_cframe_in_lua = state(CFRAME, 0x10, 8),
    with_other_owner = cframe(SAVE_L, 0x1230, WORD),
    with_other_outer_cframe = cframe(SAVE_CFRAME, 0x10, 8),
    with_no_frames = cframe(SAVE_NRES, -8, 4),
    with_own_caller = frame(LINK, 1),
    with_far_caller = frame(LINK, 0x7fffff1),
    with_upward_caller = frame(LINK, -63),
    with_no_code = frame(LINK, 0x1000),
    with_no_function = frame(FUNCTION, 0x1230),
    with_every_bit = frame(FUNCTION, -1),
}
local names = {}
for name in pairs(ways) do
    names[#names + 1] = name
end
table.sort(names)

local function sound(deadline)
    host.burn(deadline)
    return deadline
end

-- Suspended coroutines, whose memory nobody needs before the end.
collectgarbage "stop"
local function suspended()
    local thread = coroutine.create(function(x)
        coroutine.yield(x)
    end)
    coroutine.resume(thread, 1)
    return thread, tonumber(tostring(thread):match "0x(%x+)", 16)
end
local word = WORD == 8 and "uint64_t *" or "uint32_t *"
local restore = {}
local function overwrite(address, value)
    local place = ffi.cast(word, address)
    restore[#restore + 1] = { place, place[0] }
    place[0] = value
end
local one, one_at = suspended()
overwrite(tonumber(ffi.cast(word, one_at + BASE)[0]) + LINK, 1)
local other, other_at = suspended()
overwrite(other_at + BASE, 0x1000)
overwrite(other_at + STACK, 0)

local turn = 0
case.ready()
while case.running() do
    turn = turn % #names + 1
    ways[names[turn]](case.part(0.5)) -- @with
    case.account "with"
    sound(case.part(0.5)) -- @sound
    case.account "sound"
end
for i = #restore, 1, -1 do
    restore[i][1][0] = restore[i][2]
end
case.finish()
