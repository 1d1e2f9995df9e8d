-- A tree of path segments. A segment that begins with a colon matches any text and gives it that name.

local _M = {}

local function split_path(path)
    local segments, n = {}, 0
    for segment in string.gmatch(path, "[^/]+") do
        n = n + 1
        segments[n] = segment
    end
    return segments, n
end

local function insert_route(tree, spec)
    local method, path, handler = spec[1], spec[2], spec[3]
    local node = tree
    for _, segment in ipairs((split_path(path))) do
        local name = string.match(segment, "^:(.+)")
        local key = name and ":" or segment
        local child = node.children[key]
        if not child then
            child = { children = {}, handlers = {}, name = name }
            node.children[key] = child
        end
        node = child
    end
    node.handlers[method] = {
        id = method .. " " .. path,
        handler = handler,
        public = spec.public,
        limit = spec.limit,
    }
end

function _M.new(specs)
    local tree = { children = {}, handlers = {} }
    for _, spec in ipairs(specs) do
        insert_route(tree, spec)
    end
    return tree
end

local function walk_tree(node, segments, at, count, params)
    if at > count then
        return node
    end
    local exact = node.children[segments[at]]
    if exact then
        local found = walk_tree(exact, segments, at + 1, count, params)
        if found then
            return found
        end
    end
    local any = node.children[":"]
    if any then
        params[any.name] = segments[at]
        return walk_tree(any, segments, at + 1, count, params)
    end
end

function _M.match(tree, method, path)
    local segments, count = split_path(path)
    local params = {}
    local node = walk_tree(tree, segments, 1, count, params)
    return node and node.handlers[method], params
end

return _M
