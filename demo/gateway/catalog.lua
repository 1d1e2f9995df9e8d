-- The products, and a search in them.

local _M = {}

local ADJECTIVES = { "small", "large", "red", "blue", "heavy", "light", "quiet", "fast" }
local NOUNS = { "lamp", "chair", "table", "shelf", "desk", "clock", "mirror", "carpet", "sofa", "vase" }

local products = {}

function _M.init()
    for i, adjective in ipairs(ADJECTIVES) do
        for j, noun in ipairs(NOUNS) do
            local id = (i - 1) * #NOUNS + j
            products[id] = {
                id = id,
                name = adjective .. " " .. noun,
                description = string.format("A %s %s, article %05d-%s.", adjective, noun, id * 37, noun:sub(1, 2):upper()),
                cents = 500 + (id * 7919) % 40000,
            }
        end
    end
end

function _M.find(id)
    return products[tonumber(id)]
end

local function by_price_then_name(a, b)
    if a.cents ~= b.cents then
        return a.cents < b.cents
    end
    return a.name < b.name
end

-- `?query=` words become one regular expression: all of them, in this order.
local function compile_query(query)
    local words = ngx.re.gsub(query, [[[^a-z0-9 ]+]], "", "jo")
    return (ngx.re.gsub(words, [[\s+]], ".*", "jo"))
end

function _M.search(query, limit)
    local pattern = compile_query(query or "")
    local found = {}
    for _, product in ipairs(products) do
        if ngx.re.find(product.description, pattern, "joi") then
            found[#found + 1] = product
        end
    end
    table.sort(found, by_price_then_name)
    for i = #found, limit + 1, -1 do
        found[i] = nil
    end
    return found
end

return _M
