-- What 26-churn.lua loads: pairs of functions, each at lines of its own.
-- pair 1
local function inner_1(x)
    for i = 1, 500 do x = (x + i * 3) % 1021 end
    return x
end
local function outer_1(n)
    local x = 0
    for _ = 1, n do
        x = inner_1(x) -- @call_1
    end
    return x
end
return outer_1
-- end
-- pair 2
local function inner_2(x)
    for i = 1, 500 do x = (x + i * 4) % 1021 end
    return x
end
local function outer_2(n)
    local x = 0
    for _ = 1, n do
        x = inner_2(x) -- @call_2
    end
    return x
end
return outer_2
-- end
-- pair 3
local function inner_3(x)
    for i = 1, 500 do x = (x + i * 5) % 1021 end
    return x
end
local function outer_3(n)
    local x = 0
    for _ = 1, n do
        x = inner_3(x) -- @call_3
    end
    return x
end
return outer_3
-- end
-- pair 4
local function inner_4(x)
    for i = 1, 500 do x = (x + i * 6) % 1021 end
    return x
end
local function outer_4(n)
    local x = 0
    for _ = 1, n do
        x = inner_4(x) -- @call_4
    end
    return x
end
return outer_4
-- end
-- pair 5
local function inner_5(x)
    for i = 1, 500 do x = (x + i * 7) % 1021 end
    return x
end
local function outer_5(n)
    local x = 0
    for _ = 1, n do
        x = inner_5(x) -- @call_5
    end
    return x
end
return outer_5
-- end
-- pair 6
local function inner_6(x)
    for i = 1, 500 do x = (x + i * 8) % 1021 end
    return x
end
local function outer_6(n)
    local x = 0
    for _ = 1, n do
        x = inner_6(x) -- @call_6
    end
    return x
end
return outer_6
-- end
-- pair 7
local function inner_7(x)
    for i = 1, 500 do x = (x + i * 9) % 1021 end
    return x
end
local function outer_7(n)
    local x = 0
    for _ = 1, n do
        x = inner_7(x) -- @call_7
    end
    return x
end
return outer_7
-- end
-- pair 8
local function inner_8(x)
    for i = 1, 500 do x = (x + i * 10) % 1021 end
    return x
end
local function outer_8(n)
    local x = 0
    for _ = 1, n do
        x = inner_8(x) -- @call_8
    end
    return x
end
return outer_8
-- end
-- pair 9
local function inner_9(x)
    for i = 1, 500 do x = (x + i * 11) % 1021 end
    return x
end
local function outer_9(n)
    local x = 0
    for _ = 1, n do
        x = inner_9(x) -- @call_9
    end
    return x
end
return outer_9
-- end
-- pair 10
local function inner_10(x)
    for i = 1, 500 do x = (x + i * 12) % 1021 end
    return x
end
local function outer_10(n)
    local x = 0
    for _ = 1, n do
        x = inner_10(x) -- @call_10
    end
    return x
end
return outer_10
-- end
-- pair 11
local function inner_11(x)
    for i = 1, 500 do x = (x + i * 13) % 1021 end
    return x
end
local function outer_11(n)
    local x = 0
    for _ = 1, n do
        x = inner_11(x) -- @call_11
    end
    return x
end
return outer_11
-- end
-- pair 12
local function inner_12(x)
    for i = 1, 500 do x = (x + i * 14) % 1021 end
    return x
end
local function outer_12(n)
    local x = 0
    for _ = 1, n do
        x = inner_12(x) -- @call_12
    end
    return x
end
return outer_12
-- end
