/* SPDX-License-Identifier: Apache-2.0 */
/* A page of the business module as HTML. Pure; everything that comes from a page is escaped. */
#ifndef SHOP_API_PAGES_H
#define SHOP_API_PAGES_H

#include "business/business.h"

/* asked: what stands in the search field. */
void pages_write(struct text *t, const struct business_page *page, const char *asked);
/* What there is to say when there is no page: a title and a sentence. */
void pages_write_apart(struct text *t, const char *title, const char *lead);

#endif
