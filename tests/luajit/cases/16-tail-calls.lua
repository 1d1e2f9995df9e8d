-- Chains of 30 tail calls: only the last function and the one that began the chain are on the stack.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function last(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
    return sink
end

local function link_30(deadline)
    return last(deadline)
end
local function link_29(deadline)
    return link_30(deadline)
end
local function link_28(deadline)
    return link_29(deadline)
end
local function link_27(deadline)
    return link_28(deadline)
end
local function link_26(deadline)
    return link_27(deadline)
end
local function link_25(deadline)
    return link_26(deadline)
end
local function link_24(deadline)
    return link_25(deadline)
end
local function link_23(deadline)
    return link_24(deadline)
end
local function link_22(deadline)
    return link_23(deadline)
end
local function link_21(deadline)
    return link_22(deadline)
end
local function link_20(deadline)
    return link_21(deadline)
end
local function link_19(deadline)
    return link_20(deadline)
end
local function link_18(deadline)
    return link_19(deadline)
end
local function link_17(deadline)
    return link_18(deadline)
end
local function link_16(deadline)
    return link_17(deadline)
end
local function link_15(deadline)
    return link_16(deadline)
end
local function link_14(deadline)
    return link_15(deadline)
end
local function link_13(deadline)
    return link_14(deadline)
end
local function link_12(deadline)
    return link_13(deadline)
end
local function link_11(deadline)
    return link_12(deadline)
end
local function link_10(deadline)
    return link_11(deadline)
end
local function link_09(deadline)
    return link_10(deadline)
end
local function link_08(deadline)
    return link_09(deadline)
end
local function link_07(deadline)
    return link_08(deadline)
end
local function link_06(deadline)
    return link_07(deadline)
end
local function link_05(deadline)
    return link_06(deadline)
end
local function link_04(deadline)
    return link_05(deadline)
end
local function link_03(deadline)
    return link_04(deadline)
end
local function link_02(deadline)
    return link_03(deadline)
end
local function link_01(deadline)
    return link_02(deadline)
end

-- A local name that lies: what is shown has to be the name of the definition.
local innocent = link_01

local function begin(deadline)
    local x = innocent(deadline) -- @chain
    return x
end

-- Through pcall the chain begins anew
local function begin_protected(deadline)
    local _, x = pcall(innocent, deadline) -- @pcall
    return x
end

case.ready()
while case.running() do
    begin(case.part(0.7)) -- @start
    case.account("begin")
    begin_protected(case.part(0.3)) -- @start
    case.account("begin_protected")
end
case.finish()
