// Everything is declared ahead of the source.

#pragma once
