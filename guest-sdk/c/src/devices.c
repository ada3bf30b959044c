// SPDX-License-Identifier: Apache-2.0
// Names and attributes of devices, kept until the registry changes; and which devices there are.
#include <stdlib.h>

#include "internal.h"

// Texts of a page of devices; NULL where a device has none.
struct text_page {
    uint64_t known;
    char *texts[WF_PAGE];
};

// Of one attribute, or (without a name) the names.
struct attribute {
    struct attribute *next;
    char *name;
    struct text_page **pages;
    size_t page_count;
};

static struct attribute *attributes;
static uint64_t version;
static bool version_known;
static wf_device *missing;
static size_t missing_room;

static void forget(void)
{
    for (struct attribute *attribute = attributes; attribute; attribute = attribute->next)
        for (size_t i = 0; i < attribute->page_count; i++) {
            struct text_page *page = attribute->pages[i];
            if (!page)
                continue;
            for (int j = 0; j < WF_PAGE; j++) {
                free(page->texts[j]);
                page->texts[j] = NULL;
            }
            page->known = 0;
        }
}

static void finish(void)
{
}

static void reset(void)
{
    version_known = false;
}

static wf_part part = {.finish = finish, .reset = reset};

// Once a callback: within it nothing changes.
static void check_version(void)
{
    if (version_known)
        return;
    wf_use(&part);
    uint64_t present = watchfire_rule_devices_version();
    if (present != version)
        forget();
    version = present;
    version_known = true;
}

static struct attribute *attribute_of(const char *name)
{
    for (struct attribute *attribute = attributes; attribute; attribute = attribute->next)
        if (strcmp(attribute->name, name) == 0)
            return attribute;
    struct attribute *attribute = wf_allocate(sizeof *attribute);
    attribute->name = wf_allocate(strlen(name) + 1);
    strcpy(attribute->name, name);
    attribute->next = attributes;
    return attributes = attribute;
}

static struct text_page *page_for(struct attribute *attribute, wf_device device)
{
    size_t number = device / WF_PAGE;
    if (number >= attribute->page_count) {
        size_t room = attribute->page_count;
        attribute->pages = wf_grow(attribute->pages, &room, number + 1, sizeof *attribute->pages);
        memset(attribute->pages + attribute->page_count, 0, (room - attribute->page_count) * sizeof *attribute->pages);
        attribute->page_count = room;
    }
    if (!attribute->pages[number])
        attribute->pages[number] = wf_allocate(sizeof **attribute->pages);
    return attribute->pages[number];
}

static uint64_t bit_of(wf_device device)
{
    return UINT64_C(1) << (device % WF_PAGE);
}

static size_t miss(struct attribute *attribute, wf_device device, size_t count)
{
    struct text_page *page = page_for(attribute, device);
    if (page->known & bit_of(device))
        return count;
    page->known |= bit_of(device);
    missing = wf_grow(missing, &missing_room, count + 1, sizeof *missing);
    missing[count] = device;
    return count + 1;
}

static const char *text_of(const char *name, wf_device device)
{
    wf_need_callback("an attribute of a device");
    check_version();
    struct attribute *attribute = attribute_of(name);
    struct text_page *page = page_for(attribute, device);
    if (page->known & bit_of(device))
        return page->texts[device % WF_PAGE];
    size_t count = 0;
    wf_group_of_batch();
    for (size_t i = 0; i < wf_callback.group_count; i++)
        count = miss(attribute, wf_callback.group[i], count);
    count = miss(attribute, device, count);
    wf_string asked = wf_lend("the name of an attribute", name);
    watchfire_rule_devices_list_device_t which = {missing, count};
    watchfire_rule_devices_list_option_value_t values;
    watchfire_rule_devices_attribute(&asked, &which, &values);
    for (size_t i = 0; i < count && i < values.len; i++) {
        watchfire_rule_devices_option_value_t *value = &values.ptr[i];
        if (!value->is_some || value->val.tag != WATCHFIRE_RULE_TYPES_VALUE_TEXT || value->val.val.text.len == 0)
            continue;
        page_for(attribute, missing[i])->texts[missing[i] % WF_PAGE] = (char *)value->val.val.text.ptr;
        value->is_some = false; // its text is ours now
    }
    watchfire_rule_devices_list_option_value_free(&values);
    return page->texts[device % WF_PAGE];
}

const char *wf_type(wf_device device)
{
    return text_of("type", device);
}

const char *wf_site(wf_device device)
{
    return text_of("site", device);
}

const char *wf_label(wf_device device, const char *name)
{
    if (!name) {
        wf_fail("wf_label: the name is NULL");
        return NULL;
    }
    return text_of(name, device);
}

const char *wf_name(wf_device device)
{
    static struct attribute names;
    wf_need_callback("wf_name");
    check_version();
    if (!names.name) {
        names.name = wf_allocate(1);
        names.next = attributes;
        attributes = &names;
    }
    struct text_page *page = page_for(&names, device);
    if (!(page->known & bit_of(device))) {
        wf_string name;
        watchfire_rule_devices_name(device, &name);
        page->texts[device % WF_PAGE] = name.len > 0 ? (char *)name.ptr : NULL;
        page->known |= bit_of(device);
    }
    const char *text = page->texts[device % WF_PAGE];
    return text ? text : "";
}

bool wf_find(const char *name, wf_device *device)
{
    wf_need_callback("wf_find");
    wf_string asked = wf_lend("wf_find: the name", name);
    return asked.len > 0 && watchfire_rule_devices_find(&asked, device);
}

bool wf_next_selected(wf_selection *selection, wf_device *device)
{
    enum { PAGE = sizeof selection->page_ / sizeof *selection->page_ };
    static wf_device *group;
    static size_t group_room;
    wf_need_callback("wf_next_selected");
    if (selection->at_ == selection->count_) {
        // A short page was the last one.
        if (selection->begun_ && selection->count_ < PAGE)
            return false;
        wf_device last = selection->begun_ ? selection->page_[PAGE - 1] : 0;
        watchfire_rule_devices_list_device_t page;
        watchfire_rule_devices_selected(selection->begun_ ? &last : NULL, PAGE, &page);
        selection->count_ = page.len < PAGE ? (uint32_t)page.len : PAGE;
        selection->at_ = 0;
        selection->begun_ = true;
        if (page.len > 0) {
            memcpy(selection->page_, page.ptr, selection->count_ * sizeof *page.ptr);
            group = wf_grow(group, &group_room, selection->count_, sizeof *group);
            memcpy(group, page.ptr, selection->count_ * sizeof *page.ptr);
            wf_set_group(group, selection->count_);
        }
        watchfire_rule_devices_list_device_free(&page);
        if (selection->count_ == 0)
            return false;
    }
    *device = selection->page_[selection->at_++];
    return true;
}
