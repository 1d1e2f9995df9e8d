-- The load for the demo, a script of wrk: a mix of all routes.
--   wrk ... -s load.lua URL -- TOKEN

local requests = {}

function init(args)
    local headers = { ["Authorization"] = "Bearer " .. args[1], ["Content-Type"] = "application/json" }
    local function add(times, method, path, body)
        for _ = 1, times do
            requests[#requests + 1] = wrk.format(method, path, headers, body)
        end
    end
    for i = 1, 20 do
        add(3, "GET", "/api/products/" .. i * 3)
        add(3, "GET", "/api/products/" .. i * 4 .. "/price")
        add(2, "GET", "/api/products?query=a+" .. ({ "lamp", "desk", "red", "quiet" })[i % 4 + 1])
        add(3, "POST", "/api/orders",
            '{"email":"alice@example.com","items":[{"id":' .. i .. ',"count":2},{"id":' .. i + 40 .. ',"count":1}]}')
    end
    add(2, "GET", "/api/limited?query=lamp")
    add(2, "POST", "/api/login", '{"name":"alice","password":"wonderland"}')
    add(2, "GET", "/nowhere")
end

local at = 0

function request()
    at = at % #requests + 1
    return requests[at]
end
