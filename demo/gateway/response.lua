-- JSON answers.

local cjson = require "cjson.safe"

local _M = {}

function _M.json(status, body)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.print(cjson.encode(body))
end

-- Answers and ends the request.
function _M.fail(status, message)
    _M.json(status, { error = message, status = status })
    return ngx.exit(ngx.HTTP_OK)
end

return _M
