-- The inner VM of 23-nested-vm.lua.
local sink = 0

local function inner_work(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until host.clock() >= deadline
end

function inner_entry(deadline)
    inner_work(deadline) -- @inner_work
    return deadline
end
