-- Just enough HTTP/1.1 over a cosocket: GET, with a pool of connections, answers with a Content-Length.

local _M = {}

local TIMEOUT_MS = 2000
local POOL_IDLE_MS = 10000
local POOL_SIZE = 64

local function read_status(sock)
    local line, err = sock:receive("*l")
    if not line then
        return nil, err
    end
    local m = ngx.re.match(line, [[^HTTP/1\.[01] (\d{3})]], "jo")
    return m and tonumber(m[1]), "not HTTP"
end

local function read_headers(sock)
    local headers = {}
    while true do
        local line, err = sock:receive("*l")
        if not line then
            return nil, err
        end
        if line == "" then
            return headers
        end
        local name, value = string.match(line, "^([^:]+):%s*(.-)%s*$")
        if name then
            headers[name:lower()] = value
        end
    end
end

-- Status and body of http://host:port/path, or nil and why not.
function _M.get(host, port, path)
    local sock = ngx.socket.tcp()
    sock:settimeout(TIMEOUT_MS)
    local ok, err = sock:connect(host, port)
    if not ok then
        return nil, err
    end
    sock:send({ "GET ", path, " HTTP/1.1\r\nHost: ", host, "\r\n\r\n" })
    local status, headers, body
    status, err = read_status(sock)
    if status then
        headers, err = read_headers(sock)
    end
    if headers then
        body, err = sock:receive(tonumber(headers["content-length"]) or 0)
    end
    if not body then
        sock:close()
        return nil, err
    end
    sock:setkeepalive(POOL_IDLE_MS, POOL_SIZE)
    return status, body
end

return _M
