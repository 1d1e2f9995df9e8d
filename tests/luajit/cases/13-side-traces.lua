-- Side traces, traces that link to others, recursion up and down, and a loop that needs many spill slots.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0

local function rare(x)
    for i = 1, 20 do x = (x + i * 3) % 1021 end
    return x
end
local function common(x)
    for i = 1, 20 do x = (x * 3 + i) % 1019 end
    return x
end

-- branches taken in turn: side traces of one loop, which end in the loop of another root trace
local function branches(deadline)
    repeat
        local x = sink
        for i = 1, 300 do
            if i % 3 == 0 then
                x = rare(x) -- @rare
            elseif i % 5 == 0 then
                x = common(x) + 1 -- @common
            else
                x = (x + i) % 1013
            end
        end
        sink = x
    until clock() >= deadline
end

-- not a tail call: up-recursion on the way in, down-recursion on the way out
local function sum(n)
    if n == 0 then return 0 end
    return (n + sum(n - 1)) % 65521 -- @sum_sum
end
local function recursion(deadline)
    repeat
        for _ = 1, 10 do
            sink = sum(60) -- @sum
        end
    until clock() >= deadline
end

local function fib(n)
    if n < 2 then return n end
    return fib(n - 1) + fib(n - 2) -- @fib_fib
end
local function tree(deadline)
    repeat
        sink = fib(12) -- @fib
    until clock() >= deadline
end

-- thirty values that live through the loop
local function spills(deadline)
    repeat
        local a, b, c, d, e, f, g, h, i, j = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.5
        local k, l, m, n, o, p, q, r, s, t = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.5
        local u, v, w, x, y, z, aa, bb, cc, dd = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.5
        for turn = 1, 200 do
            if turn % 7 == 3 then a, k, u = u, a, k end
            a, b, c, d, e = a * 0.5 + b, b * 0.5 + c, c * 0.5 + d, d * 0.5 + e, e * 0.5 + f
            f, g, h, i, j = f * 0.5 + g, g * 0.5 + h, h * 0.5 + i, i * 0.5 + j, j * 0.5 + k
            k, l, m, n, o = k * 0.5 + l, l * 0.5 + m, m * 0.5 + n, n * 0.5 + o, o * 0.5 + p
            p, q, r, s, t = p * 0.5 + q, q * 0.5 + r, r * 0.5 + s, s * 0.5 + t, t * 0.5 + u
            u, v, w, x, y = u * 0.5 + v, v * 0.5 + w, w * 0.5 + x, x * 0.5 + y, y * 0.5 + z
            z, aa, bb, cc, dd = z * 0.5 + aa, aa * 0.5 + bb, bb * 0.5 + cc, cc * 0.5 + dd, dd * 0.5 + a
        end
        sink = (a + b + c + d + e + f + g + h + i + j + k + l + m + n + o + p + q + r + s + t
            + u + v + w + x + y + z + aa + bb + cc + dd) % 1021
    until clock() >= deadline
end

case.ready()
while case.running() do
    branches(case.part(0.4)) -- @start
    case.account("branches")
    recursion(case.part(0.2)) -- @start
    case.account("recursion")
    tree(case.part(0.2)) -- @start
    case.account("tree")
    spills(case.part(0.2)) -- @start
    case.account("spills")
end
case.finish()
