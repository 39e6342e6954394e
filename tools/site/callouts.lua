-- Quarto's callouts as plain HTML: folded ones become <details>, the others <aside>.
function Div(div)
  local kind
  for _, class in ipairs(div.classes) do kind = kind or class:match("^callout%-(%w+)$") end
  if not kind then return nil end
  local title, body = pandoc.Inlines(kind:gsub("^%l", string.upper)), div.content
  if #body > 0 and body[1].t == "Header" then title = body[1].content; body:remove(1)
  elseif div.attributes.title then title = pandoc.Inlines(div.attributes.title) end
  local heading = pandoc.write(pandoc.Pandoc({pandoc.Plain(title)}), "html")
  local folded = div.attributes.collapse == "true"
  local open = folded and ('<details class="callout ' .. kind .. '"><summary>' .. heading .. '</summary>')
                       or ('<aside class="callout ' .. kind .. '"><p class="callout-title">' .. heading .. '</p>')
  local blocks = pandoc.Blocks({pandoc.RawBlock("html", open)})
  blocks:extend(body)
  blocks:insert(pandoc.RawBlock("html", folded and "</details>" or "</aside>"))
  return blocks
end
