module github.com/mcp-redial/mcp-redial

go 1.26.0
